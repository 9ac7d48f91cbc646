package sbx

import (
	"context"
	"io/fs"
	"path"
)

// FS is the tree below a folder of the sandbox as a file system for package io/fs, to read. ctx bounds all of its use. Links are followed within the whole sandbox, as
// os.DirFS does. It implements fs.ReadDirFS, fs.ReadFileFS, fs.StatFS and fs.ReadLinkFS.
func (sb *Sandbox) FS(ctx context.Context, folder string) fs.FS { return &sandboxFS{sb, ctx, folder} }

type sandboxFS struct {
	sandbox *Sandbox
	ctx     context.Context // a file system's methods have none
	folder  string
}

// inFS does one thing with what has a name in the file system. The error is of the type, and has the name, that package io/fs asks for.
func inFS[T any](f *sandboxFS, op, name string, do func(ctx context.Context, at string) (T, error)) (T, error) {
	if !fs.ValidPath(name) {
		return *new(T), &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	at := path.Join(f.folder, name)
	if name == "." && f.folder != "" {
		at = f.folder + "/." // which is the name that it has there
	}
	result, err := do(f.ctx, at)
	if err != nil {
		return *new(T), &fs.PathError{Op: op, Path: name, Err: err}
	}
	return result, nil
}

func (f *sandboxFS) Open(name string) (fs.File, error) {
	file, err := inFS(f, "open", name, f.sandbox.Open)
	if err != nil {
		return nil, err // and no file that is nil
	}
	return file, nil
}

func (f *sandboxFS) ReadFile(name string) ([]byte, error) {
	return inFS(f, "read", name, f.sandbox.ReadFile)
}

func (f *sandboxFS) ReadDir(name string) ([]fs.DirEntry, error) {
	return inFS(f, "readdir", name, f.sandbox.ReadDir)
}

func (f *sandboxFS) Stat(name string) (fs.FileInfo, error) {
	return inFS(f, "stat", name, f.sandbox.Stat)
}

func (f *sandboxFS) Lstat(name string) (fs.FileInfo, error) {
	return inFS(f, "lstat", name, f.sandbox.Lstat)
}

func (f *sandboxFS) ReadLink(name string) (string, error) {
	return inFS(f, "readlink", name, f.sandbox.Readlink)
}
