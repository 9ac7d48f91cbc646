module example.com/m

go 1.27.0

require github.com/sandboxfn/sbx v0.0.0

replace github.com/sandboxfn/sbx => ../../../cmd/sbxgen/testdata/sbx
