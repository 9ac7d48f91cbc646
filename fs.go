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

// at is a name's path in the sandbox.
func (f *sandboxFS) at(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return path.Join(f.folder, name), nil
}

func (f *sandboxFS) Open(name string) (fs.File, error) {
	at, err := f.at("open", name)
	if err != nil {
		return nil, err
	}
	return f.sandbox.Open(f.ctx, at)
}

func (f *sandboxFS) ReadFile(name string) ([]byte, error) {
	at, err := f.at("read", name)
	if err != nil {
		return nil, err
	}
	return f.sandbox.ReadFile(f.ctx, at)
}

func (f *sandboxFS) ReadDir(name string) ([]fs.DirEntry, error) {
	at, err := f.at("readdir", name)
	if err != nil {
		return nil, err
	}
	return f.sandbox.ReadDir(f.ctx, at)
}

func (f *sandboxFS) Stat(name string) (fs.FileInfo, error) {
	at, err := f.at("stat", name)
	if err != nil {
		return nil, err
	}
	return f.sandbox.Stat(f.ctx, at)
}

func (f *sandboxFS) Lstat(name string) (fs.FileInfo, error) {
	at, err := f.at("lstat", name)
	if err != nil {
		return nil, err
	}
	return f.sandbox.Lstat(f.ctx, at)
}

func (f *sandboxFS) ReadLink(name string) (string, error) {
	at, err := f.at("readlink", name)
	if err != nil {
		return "", err
	}
	return f.sandbox.Readlink(f.ctx, at)
}
