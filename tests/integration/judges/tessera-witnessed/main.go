// A log by Tessera (POSIX) that asks the witnesses of a policy for cosignatures and publishes nothing without their quorum.
// Usage: tessera-witnessed FOLDER ORIGIN ENTRIES < policy. It prints its vkey, reads the policy up to a line "end", and then prints
// the checkpoint that covers all entries.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	secret, vkey, err := note.GenerateKey(rand.Reader, os.Args[2])
	check(err)
	signer, err := note.NewSigner(secret)
	check(err)
	fmt.Println(vkey)
	var policy strings.Builder
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() && lines.Text() != "end" {
		policy.WriteString(lines.Text() + "\n")
	}
	witnesses, err := tessera.NewWitnessGroupFromPolicy([]byte(policy.String()))
	check(err)
	driver, err := posix.New(ctx, posix.Config{Path: os.Args[1]})
	check(err)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(100*time.Millisecond).
		WithBatching(1, 10*time.Millisecond).
		WithWitnesses(witnesses, &tessera.WitnessOptions{Timeout: 10 * time.Second}))
	check(err)
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 20*time.Millisecond)
	count, err := strconv.Atoi(os.Args[3])
	check(err)
	var checkpoint []byte
	for number := range count {
		_, checkpoint, err = awaiter.Await(ctx, appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", number))))
		check(err)
	}
	check(shutdown(ctx))
	os.Stdout.Write(checkpoint)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
