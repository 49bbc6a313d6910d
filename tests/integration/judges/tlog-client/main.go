// An independent client of tiles, checkpoints and cosignatures: Go's own sumdb packages, and torchwood. It trusts nothing of ours.
//
//	tlog-client read FOLDER VKEY...            every entry, proof and root by golang.org/x/mod/sumdb, then again by torchwood's client
//	tlog-client open VKEY... < note            which of the keys signed it
//	tlog-client sign NAME KIND SEED < text     a signature line; KIND: ed25519, cosignature, ml-dsa-44
package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/mldsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) > 2 && args[0] == "read":
		return read(args[1], args[2:])
	case len(args) > 1 && args[0] == "open":
		text, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		return open(text, args[1:])
	case len(args) == 4 && args[0] == "sign":
		return sign(args[1], args[2], args[3])
	}
	return errors.New("usage: see main.go")
}

func verifier(vkey string) (note.Verifier, error) {
	_, rest, _ := strings.Cut(vkey, "+")
	_, key, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(key)
	if err == nil && len(raw) > 0 && raw[0] == 4 {
		return torchwood.NewCosignatureVerifier(vkey)
	}
	return torchwood.NewLogVerifier(vkey) // Ed25519: sumdb/note's own
}

func opened(signed []byte, vkeys []string) (*note.Note, error) {
	var known []note.Verifier
	for _, vkey := range vkeys {
		each, err := verifier(vkey)
		if err != nil {
			return nil, err
		}
		known = append(known, each)
	}
	return note.Open(signed, note.VerifierList(known...))
}

func open(signed []byte, vkeys []string) error {
	found, err := opened(signed, vkeys)
	if err != nil {
		return err
	}
	for _, each := range found.Sigs {
		fmt.Printf("%s+%08x\n", each.Name, each.Hash)
	}
	return nil
}

func sign(name, kind, seed string) error {
	raw, err := hex.DecodeString(seed)
	if err != nil || len(raw) != 32 {
		return errors.New("a seed is 32 bytes in hex")
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var signer note.Signer
	var key crypto.Signer = ed25519.NewKeyFromSeed(raw)
	switch kind {
	case "ed25519":
		public := append([]byte{1}, key.Public().(ed25519.PublicKey)...)
		text := fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", name, keyHash(name, public), base64.StdEncoding.EncodeToString(append([]byte{1}, raw...)))
		signer, err = note.NewSigner(text)
		fmt.Fprintf(os.Stderr, "%s+%08x+%s\n", name, keyHash(name, public), base64.StdEncoding.EncodeToString(public))
	case "cosignature", "ml-dsa-44":
		if kind == "ml-dsa-44" {
			if key, err = mldsa.NewPrivateKey(mldsa.MLDSA44(), raw); err != nil {
				return err
			}
		}
		var made *torchwood.CosignatureSigner
		if made, err = torchwood.NewCosignatureSigner(name, key); err == nil {
			signer = made
			fmt.Fprintln(os.Stderr, made.Verifier().String())
		}
	default:
		return errors.New("no such kind of key")
	}
	if err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(signed)
	return err
}

func keyHash(name string, public []byte) uint32 {
	sum := crypto.SHA256.New()
	sum.Write([]byte(name + "\n"))
	sum.Write(public)
	return binary.BigEndian.Uint32(sum.Sum(nil))
}

// folder reads tiles as a static web server would serve them; a partial tile that is gone is looked for as the full one.
type folder string

func (f folder) Height() int { return 8 }

var kept = map[tlog.Tile][]byte{}

func (f folder) one(tile tlog.Tile) ([]byte, error) {
	if data, ok := kept[tile]; ok {
		return data, nil
	}
	data, err := f.fresh(tile)
	if err == nil {
		kept[tile] = data
	}
	return data, err
}

func (f folder) fresh(tile tlog.Tile) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(f), torchwood.TilePath(tile)))
	if errors.Is(err, os.ErrNotExist) && tile.W < 256 {
		full := tile
		full.W = 256
		if data, err = os.ReadFile(filepath.Join(string(f), torchwood.TilePath(full))); err == nil && tile.L >= 0 {
			data = data[:32*tile.W]
		}
	}
	return data, err
}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(tiles))
	for i, tile := range tiles {
		var err error
		if found[i], err = f.one(tile); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

type served struct{ folder }

func (s served) ReadTiles(_ context.Context, tiles []tlog.Tile) ([][]byte, error) {
	return s.folder.ReadTiles(tiles)
}

func (s served) ReadEndpoint(_ context.Context, path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(s.folder), path))
}

func head(signed []byte, vkeys []string) (torchwood.Checkpoint, error) {
	found, err := opened(signed, vkeys)
	if err != nil {
		return torchwood.Checkpoint{}, err
	}
	if len(found.Sigs) < len(vkeys) {
		return torchwood.Checkpoint{}, fmt.Errorf("signed by %d of %d keys", len(found.Sigs), len(vkeys))
	}
	return torchwood.ParseCheckpoint(found.Text)
}

func read(name string, vkeys []string) error {
	signed, err := os.ReadFile(filepath.Join(name, "checkpoint"))
	if err != nil {
		return err
	}
	tree, err := head(signed, vkeys)
	if err != nil {
		return err
	}
	tiles := folder(name)
	hashes := tlog.TileHashReader(tree.Tree, tiles)
	if root, err := tlog.TreeHash(tree.N, hashes); err != nil || root != tree.Hash {
		return fmt.Errorf("the tiles do not lead to the signed root: %v", err)
	}
	if err := entries(tiles, tree, hashes); err != nil {
		return err
	}
	olds, err := older(name, vkeys, tree, hashes)
	if err != nil {
		return err
	}
	client, err := torchwood.NewClient(served{tiles})
	if err != nil {
		return err
	}
	count := int64(0)
	for range client.AllEntries(context.Background(), tree.Tree, 0) {
		count++
	}
	if client.Err() != nil || count != tree.N {
		return fmt.Errorf("torchwood's client read %d entries: %w", count, client.Err())
	}
	fmt.Println(tree.N, "entries,", olds, "older checkpoints")
	return nil
}

// entries checks the leaf hash and the inclusion proof of every entry, with sumdb/tlog alone.
func entries(tiles folder, tree torchwood.Checkpoint, hashes tlog.HashReader) error {
	for first := int64(0); first < tree.N; first += 256 {
		width := int(min(256, tree.N-first))
		data, err := tiles.one(tlog.Tile{H: 8, L: -1, N: first / 256, W: width})
		if err != nil {
			return err
		}
		for index := first; index < first+int64(width); index++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return fmt.Errorf("the bundle of entry %d is cut off", index)
			}
			size := int(binary.BigEndian.Uint16(data))
			leaf := tlog.RecordHash(data[2 : 2+size])
			data = data[2+size:]
			proof, err := tlog.ProveRecord(tree.N, index, hashes)
			if err != nil {
				return err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, leaf); err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
		}
		if len(data) != 0 && width == 256 {
			return errors.New("a full bundle is followed by something")
		}
	}
	return nil
}

// older checks every archived checkpoint: its signatures, and that the present tree continues it.
func older(name string, vkeys []string, tree torchwood.Checkpoint, hashes tlog.HashReader) (int, error) {
	found, err := os.ReadDir(filepath.Join(name, "checkpoints"))
	if err != nil {
		return 0, err
	}
	var sizes []int64
	for _, each := range found {
		if size, err := strconv.ParseInt(each.Name(), 10, 64); err == nil {
			sizes = append(sizes, size)
		}
	}
	sort.Slice(sizes, func(i, j int) bool { return sizes[i] < sizes[j] })
	for _, size := range sizes {
		signed, err := os.ReadFile(filepath.Join(name, "checkpoints", strconv.FormatInt(size, 10)))
		if err != nil {
			return 0, err
		}
		old, err := head(signed, vkeys)
		if err != nil {
			return 0, fmt.Errorf("checkpoint %d: %w", size, err)
		}
		if old.N != size || old.Origin != tree.Origin {
			return 0, fmt.Errorf("checkpoint %d says %d of %s", size, old.N, old.Origin)
		}
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		if err != nil {
			return 0, err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			return 0, fmt.Errorf("checkpoint %d: %w", size, err)
		}
	}
	return len(sizes), nil
}
