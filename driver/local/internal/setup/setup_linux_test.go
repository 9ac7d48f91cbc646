package setup

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What comes late in the order in which Go initialises packages: with these this package would, too.
func TestImportsNothingThatBeginsLate(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	imports := strings.Fields(string(out))
	require.Contains(t, imports, "os", "the control")
	for _, late := range []string{"net", "path/filepath", "text/template", "vendor/golang.org/x/net/dns/dnsmessage", "github.com/sandboxfn/sbx/driver"} {
		assert.NotContains(t, imports, late)
	}
}
