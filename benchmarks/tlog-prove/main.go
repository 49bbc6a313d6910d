// What Go's own client of tiled logs takes to prove one entry: tiles from the same folder, a record proof, and its check.
//
//	tlog-prove FOLDER INDEX ROUNDS     nanoseconds of each round, a line each
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

type folder string

func (f folder) Height() int { return 8 }

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(tiles))
	for i, tile := range tiles {
		// tile/8/L/N of sumdb is tile/L/N of tlog-tiles
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(string(f), path))
		if err != nil {
			return nil, err
		}
		found[i] = data
	}
	return found, nil
}

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
}

func run(name, at, times string) error {
	index, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return err
	}
	rounds, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	for range rounds {
		begun := time.Now()
		signed, err := os.ReadFile(filepath.Join(name, "checkpoint"))
		if err != nil {
			return err
		}
		lines := strings.SplitN(string(signed), "\n", 4)
		size, err := strconv.ParseInt(lines[1], 10, 64)
		if err != nil {
			return err
		}
		root, err := tlog.ParseHash(lines[2])
		if err != nil {
			return err
		}
		hashes := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, folder(name))
		leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		if err != nil {
			return err
		}
		proof, err := tlog.ProveRecord(size, index, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, size, root, index, leaf[0]); err != nil {
			return err
		}
		fmt.Println(time.Since(begun).Nanoseconds())
	}
	return nil
}
