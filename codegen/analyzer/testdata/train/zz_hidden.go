//go:build !sbxgen && !never

package train

import "github.com/sandboxfn/sbx"

func misuse(session *sbx.Session) { session.Function[int, int](nil) }
