// A reader of a published ledger by HTTP that knows nothing of ours: torchwood's client over its own fetcher.
//
//	tlog-http URL VKEY    opens the checkpoint, reads and checks every entry, prints each on a line
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
}

func run(url, vkey string) error {
	ctx := context.Background()
	fetcher, err := torchwood.NewTileFetcher(url, torchwood.WithUserAgent("test https://stele.invalid"))
	if err != nil {
		return err
	}
	signed, err := fetcher.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		return err
	}
	verifier, err := torchwood.NewLogVerifier(vkey)
	if err != nil {
		return err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return err
	}
	head, err := torchwood.ParseCheckpoint(opened.Text)
	if err != nil {
		return err
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	count := int64(0)
	for _, entry := range client.AllEntries(ctx, head.Tree, 0) {
		fmt.Fprintf(out, "%s\n", entry)
		count++
	}
	if client.Err() != nil {
		return client.Err()
	}
	if count != head.N {
		return fmt.Errorf("%d entries of %d", count, head.N)
	}
	return nil
}
