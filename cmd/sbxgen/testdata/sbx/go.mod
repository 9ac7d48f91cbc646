module github.com/sandboxfn/sbx

go 1.27.0
