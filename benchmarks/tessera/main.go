// Appends to a log by Tessera's POSIX driver: tessera FOLDER COUNT BATCH SUBMITTERS; prints entries per second until all are published.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func main() {
	ctx := context.Background()
	count, batch, submitters := must(strconv.Atoi(os.Args[2])), must(strconv.Atoi(os.Args[3])), must(strconv.Atoi(os.Args[4]))
	secret, _, err := note.GenerateKey(rand.Reader, "tessera.example/log")
	signer := must(note.NewSigner(must(secret, err)))
	driver := must(posix.New(ctx, posix.Config{Path: os.Args[1]}))
	options := tessera.NewAppendOptions().WithCheckpointSigner(signer).WithCheckpointInterval(100*time.Millisecond).
		WithBatching(uint(batch), time.Millisecond).WithPushback(1 << 20)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	must(appender, err)
	begun := time.Now()
	var all sync.WaitGroup
	for who := range submitters {
		all.Add(1)
		go func() {
			defer all.Done()
			for first := who * batch; first < count; first += submitters * batch {
				// a call of `batch` entries: handed in together, waited for together
				futures := make([]tessera.IndexFuture, 0, batch)
				for number := first; number < min(first+batch, count); number++ {
					entry := fmt.Sprintf(`{"actor":"agent","data":{"number":%d},"kind":"instance.healthy","prev":"sha256:%064x","sealed":{},"seq":%d,"time_ns":1800000000000000000,"v":1,"workload":"w%d"}`, number, number, number, number%1000)
					futures = append(futures, appender.Add(ctx, tessera.NewEntry([]byte(entry))))
				}
				for _, future := range futures {
					must(future())
				}
			}
		}()
	}
	all.Wait()
	sequenced := time.Since(begun)
	for must(reader.IntegratedSize(ctx)) < uint64(count) {
		time.Sleep(time.Millisecond)
	}
	integrated := time.Since(begun)
	fmt.Printf("%.0f %.0f\n", float64(count)/sequenced.Seconds(), float64(count)/integrated.Seconds())
	if err := shutdown(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
