package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/internal/journal"
	"github.com/sandboxfn/sbx/registry"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

func invoke(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, &out, &err)
	return code, out.String(), err.String()
}

func encoded(t *testing.T, value any) []byte {
	data, err := msgpack.Marshal(value)
	require.NoError(t, err)
	return data
}

func example(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(path)
	require.NoError(t, err)
	for _, version := range []string{"v1", "v2"} {
		group, err := j.Group(journal.Group{Function: "example.com/m.Train", Types: "t", Version: version, Shape: json.RawMessage(`[{"fields":["Name","Loss","Of"],"of":[-1,-1,-1]}]`)})
		require.NoError(t, err)
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		for i, data := range [][]byte{encoded(t, []any{"a", 1.5, map[int]string{2: "b"}}), encoded(t, []byte{1, 2}), {0xc1}, nil} {
			require.NoError(t, j.Append(journal.Record{Key: journal.Key{15: byte(i)}, Group: group, Index: i, Time: at, Data: data}))
		}
		require.NoError(t, j.Append(journal.Record{Key: journal.Key{15: 9}, Group: group, Index: 4, Time: at, Failed: true, Text: "it <failed>"}))
	}
	require.NoError(t, j.Close())
	return path
}

func TestList(t *testing.T) {
	code, out, errs := invoke("journal", "list", example(t))
	assert.Zero(t, code, errs)
	lines := strings.Split(out, "\n")
	require.Len(t, lines, 4)
	assert.Equal(t, strings.Fields("FUNCTION VERSION RESULTS ERRORS BYTES LAST"), strings.Fields(lines[0]))
	assert.Equal(t, strings.Fields("example.com/m.Train v1 4 1 21 2026-01-02T03:04:05Z"), strings.Fields(lines[1]))
	assert.Equal(t, strings.Fields("example.com/m.Train v2 4 1 21 2026-01-02T03:04:05Z"), strings.Fields(lines[2]))
}

func TestExport(t *testing.T) {
	code, out, errs := invoke("journal", "export", example(t))
	assert.Zero(t, code, errs)
	lines := strings.Split(out, "\n")
	require.Len(t, lines, 11)
	const head = `{"function":"example.com/m.Train","version":"v1","index":`
	assert.JSONEq(t, head+`0,"input":"00000000000000000000000000000000","time":"2026-01-02T03:04:05Z","result":{"Name":"a","Loss":1.5,"Of":{"2":"b"}}}`, lines[0])
	assert.Contains(t, lines[1], `"result":"AQI="`)
	assert.Contains(t, lines[2], `"result":"wQ=="`)
	assert.NotContains(t, lines[3], `"result"`)
	assert.Contains(t, lines[4], `"error":"it <failed>"`)
}

func TestCompact(t *testing.T) {
	path := example(t)
	code, out, errs := invoke("journal", "compact", "-failed", "-keep", "v2", path)
	assert.Zero(t, code, errs)
	assert.Equal(t, "kept 4 records, removed 6\n", out)
	_, out, _ = invoke("journal", "list", path)
	assert.NotContains(t, out, "v1")
}

func TestWrongUse(t *testing.T) {
	foreign := filepath.Join(t.TempDir(), "foreign")
	require.NoError(t, os.WriteFile(foreign, []byte("hello"), 0o600))
	for _, test := range []struct {
		args string
		code int
		says string
	}{
		{"", 2, "no command"},
		{"nonsense", 2, `no command "nonsense"`},
		{"journal", 2, "list, export or compact"},
		{"journal nonsense", 2, `no command "nonsense"`},
		{"journal list", 2, "needs one file"},
		{"journal list a b", 2, "needs one file"},
		{"journal list -failed a", 2, "not defined"},
		{"journal list /no/such", 1, "no such file"},
		{"journal export " + foreign, 1, "no journal"},
		{"journal compact " + foreign, 1, "no journal"},
		{"journal compact -h", 0, "usage"},
		{"journal compact -keep v3 " + example(t), 1, `no version "v3"`},
		{"journal compact -function nobody " + example(t), 1, `no function "nobody"`},
	} {
		code, _, errs := invoke(strings.Fields(test.args)...)
		assert.Equal(t, test.code, code, test.args)
		assert.Contains(t, errs, test.says, test.args)
	}
	code, out, _ := invoke("help")
	assert.Zero(t, code)
	assert.Equal(t, usage, out)
}

func TestCompactOneFunction(t *testing.T) {
	path := example(t)
	j, err := journal.Open(path)
	require.NoError(t, err)
	group, err := j.Group(journal.Group{Function: "example.com/m.Other", Types: "t", Version: "v1"})
	require.NoError(t, err)
	require.NoError(t, j.Append(journal.Record{Group: group, Failed: true, Text: "kept"}))
	require.NoError(t, j.Close())
	code, out, errs := invoke("journal", "compact", "-failed", "-keep", "v2", "-function", "example.com/m.Train", path)
	assert.Zero(t, code, errs)
	assert.Equal(t, "kept 5 records, removed 6\n", out)
	_, out, _ = invoke("journal", "list", path)
	assert.Contains(t, out, "example.com/m.Other")
}

// Whatever a sandbox has sent as a result: it is shown, or its bytes are.
func TestReadable(t *testing.T) {
	show := func(data []byte) string {
		text, err := json.Marshal(readable(data, nil))
		require.NoError(t, err)
		return string(text)
	}
	for want, value := range map[string]any{
		`{"1":"a","2":"b"}`:     map[int]string{1: "a", 2: "b"},
		`[["AQI=",3]]`:          map[[2]byte]int{{1, 2}: 3},
		`["NaN",-1,65536,true]`: []any{math.NaN(), -1, 65536, true},
		`0.1`:                   float32(0.1),
		`null`:                  nil,
		`-9223372036854775808`:  int64(math.MinInt64),
		`18446744073709551615`:  uint64(math.MaxUint64),
	} {
		if array, ok := value.(map[[2]byte]int); ok { // msgpack/v5 has no such keys
			assert.Equal(t, want, show([]byte{0x81, 0xc4, 2, 1, 2, byte(array[[2]byte{1, 2}])}))
			continue
		}
		assert.Equal(t, want, show(encoded(t, value)), "%v", value)
	}
	long := encoded(t, strings.Repeat("x", 100_000))
	assert.Len(t, show(long), 100_002)
	for _, hostile := range [][]byte{
		{0xc1}, {0xdd, 0xff, 0xff, 0xff, 0xff}, {0xdf, 0xff, 0xff, 0xff, 0xff}, {0xc6, 0xff, 0xff, 0xff, 0xff, 1}, {0xdb, 0xff, 0xff, 0xff, 0xff},
		bytes.Repeat([]byte{0x91}, 1<<20), bytes.Repeat([]byte{0x81}, 1<<20), {0xc9, 0xff, 0xff, 0xff, 0xff, 0}, {1, 2}, {0xcf, 1},
	} {
		assert.Equal(t, hostile, readable(hostile, nil))
	}
}

type node struct {
	Name string
	At   time.Time
	Next *node
	Of   map[string][]node
	Deep **int
	_    int
	Left int `msgpack:"-"`
	Raw  []byte
}

// Results of a function are shown with the names of their fields.
func TestReadableHasNames(t *testing.T) {
	codec, err := registry.CodecOf(reflect.TypeFor[[]node]())
	require.NoError(t, err)
	text, err := json.Marshal(codec.Shape())
	require.NoError(t, err)
	var shape registry.Shape
	require.NoError(t, json.Unmarshal(text, &shape))
	at, deep := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), new(3)
	data, err := codec.Append(nil, reflect.ValueOf([]node{{
		Name: "<a>", At: at, Next: &node{Name: "b"}, Of: map[string][]node{"c": {{Name: "d", Deep: &deep}}}, Left: 1, Raw: []byte{1},
	}}))
	require.NoError(t, err)
	var shown bytes.Buffer
	encoder := json.NewEncoder(&shown)
	encoder.SetEscapeHTML(false)
	require.NoError(t, encoder.Encode(readable(data, shape)))
	//nolint:testifylint // the order of the fields counts
	assert.Equal(t, `[{"Name":"<a>","At":"2026-01-02T03:04:05.000000006+01:00",`+
		`"Next":{"Name":"b","At":"0001-01-01T00:00:00Z","Next":null,"Of":null,"Deep":null,"Raw":null},`+
		`"Of":{"c":[{"Name":"d","At":"0001-01-01T00:00:00Z","Next":null,"Of":null,"Deep":[3],"Raw":null}]},"Deep":null,"Raw":"AQ=="}]`+"\n", shown.String())

	for _, odd := range []registry.Shape{{{Fields: []string{"a"}}}, {{Of: []int{7}}}, {{Of: []int{-2, 0}}}, {{Time: true}}, {{Fields: []string{"a", "b"}, Of: []int{0, 0}}}} {
		text, err := json.Marshal(readable(encoded(t, []any{1, "x"}), odd))
		require.NoError(t, err)
		assert.Contains(t, string(text), `"x"`, "a journal that says something else of it")
	}
}

func FuzzReadable(f *testing.F) {
	f.Add([]byte{0x82, 0xa1, 'a', 1, 0x92, 2, 3, 0xc0})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := json.Marshal(readable(data, nil))
		require.NoError(t, err)
		_, err = json.Marshal(readable(data, registry.Shape{{Of: []int{1}}, {Fields: []string{"a", "b"}, Of: []int{2, 0}}, {Time: true}}))
		require.NoError(t, err)
	})
}

func TestNothingControlsTheTerminal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(path)
	require.NoError(t, err)
	group, err := j.Group(journal.Group{Function: "f", Version: "\x1b[2J\u009b2J"})
	require.NoError(t, err)
	require.NoError(t, j.Append(journal.Record{Group: group, Failed: true, Text: "\x1b[2J\u009b2J\x7f"}))
	require.NoError(t, j.Append(journal.Record{Group: group, Data: encoded(t, "\x1b[2J\u009b2J\x7f")}))
	require.NoError(t, j.Close())
	for _, command := range []string{"list", "export"} {
		code, out, errs := invoke("journal", command, path)
		assert.Zero(t, code, errs)
		assert.NotContains(t, out, "\x1b")
		assert.NotContains(t, out, "\u009b")
		assert.NotContains(t, out, "\x7f")
	}
}
