// apk-install ROOT ARCH FILE... installs apk packages into an empty root in the order given, without looking for what they depend on.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/chainguard-dev/go-apk/pkg/apk"
	apkfs "github.com/chainguard-dev/go-apk/pkg/fs"
)

// file is a package that lies in a folder rather than a repository.
type file string

func (f file) URL() string { return string(f) }

func (f file) PackageName() string {
	name := strings.TrimSuffix(filepath.Base(string(f)), ".apk")
	parts := strings.Split(name, "-") // NAME-VERSION-rN
	return strings.Join(parts[:len(parts)-2], "-")
}

func (f file) ChecksumString() string { return "" }

func run(root, arch string, names []string) error {
	ctx := context.Background()
	into, err := apk.New(apk.WithFS(apkfs.DirFS(root)), apk.WithArch(arch), apk.WithIgnoreMknodErrors(true))
	if err != nil {
		return err
	}
	if err := into.InitDB(ctx); err != nil {
		return err
	}
	files, world := []apk.InstallablePackage{}, []string{}
	for _, name := range names {
		files, world = append(files, file(name)), append(world, file(name).PackageName())
	}
	if err := into.SetWorld(ctx, world); err != nil {
		return err
	}
	when := time.Unix(1_700_000_000, 0)
	return into.InstallPackages(ctx, &when, files)
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
