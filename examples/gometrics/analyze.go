package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
)

// Package is one Go package's source. The contents travel with it: a sandbox can't read the folders of this machine.
type Package struct {
	Path  string
	Files []File
}

// File is one source file.
type File struct {
	Name   string
	Source string
}

// Metrics are what Analyze finds out about a package.
type Metrics struct {
	Files, Lines, Functions int
	// Complexity is the sum over all functions of their cyclomatic complexity: one, and one more for each branch.
	Complexity int
	// MostComplex is the function with the highest complexity, the first one if there are several.
	MostComplex Measured
	// Unparsed has a line for each file that is not valid Go. Such a file's lines are counted, its functions are not.
	Unparsed []string
}

// Measured is one function with its complexity.
type Measured struct {
	Name       string
	Position   string // file:line
	Complexity int
}

// Mean is the complexity of the average function, or 0 if there are none.
func (m Metrics) Mean() float64 {
	return float64(m.Complexity) / float64(max(m.Functions, 1))
}

// Analyze parses a package and measures it. Wrapped by session.Function it runs in a sandbox, so that a parser that
// a hostile file brings down takes nothing else with it.
func Analyze(ctx context.Context, p Package) (Metrics, error) {
	var m Metrics
	for _, file := range p.Files {
		if err := ctx.Err(); err != nil {
			return Metrics{}, err
		}
		m.add(file)
	}
	return m, nil
}

func (m *Metrics) add(file File) {
	m.Files++
	m.Lines += strings.Count(file.Source, "\n")
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file.Name, file.Source, parser.SkipObjectResolution)
	if err != nil {
		m.Unparsed = append(m.Unparsed, err.Error())
		return
	}
	for _, decl := range parsed.Decls {
		function, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		at := files.Position(function.Pos())
		measured := Measured{
			Name:       functionName(function),
			Position:   fmt.Sprintf("%s:%d", at.Filename, at.Line),
			Complexity: complexity(function),
		}
		m.Functions++
		m.Complexity += measured.Complexity
		if measured.Complexity > m.MostComplex.Complexity {
			m.MostComplex = measured
		}
	}
}

// complexity counts the branches of a function and of the function literals in it.
func complexity(function *ast.FuncDecl) int {
	count := 1
	ast.Inspect(function, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			count++
		case *ast.CaseClause:
			if node.List != nil { // not default
				count++
			}
		case *ast.CommClause:
			if node.Comm != nil { // not default
				count++
			}
		case *ast.BinaryExpr:
			if node.Op == token.LAND || node.Op == token.LOR {
				count++
			}
		}
		return true
	})
	return count
}

// functionName is "Name", or "Type.Name" for a method.
func functionName(function *ast.FuncDecl) string {
	name := function.Name.Name
	if function.Recv == nil || len(function.Recv.List) == 0 {
		return name
	}
	receiver := function.Recv.List[0].Type
	for {
		switch expr := receiver.(type) {
		case *ast.StarExpr:
			receiver = expr.X
		case *ast.ParenExpr:
			receiver = expr.X
		case *ast.IndexExpr: // Type[P]
			receiver = expr.X
		case *ast.IndexListExpr: // Type[P, Q]
			receiver = expr.X
		case *ast.Ident:
			return expr.Name + "." + name
		default:
			return name
		}
	}
}
