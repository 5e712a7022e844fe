//go:build linux

// Command bench measures the built gateway beside floors: bare programs that do only what can't be left out, as
// net/http with an empty handler, or the store without a gateway. It prints one table and writes it, with the conditions
// of the run, to RESULTS.md. It is no test: numbers of a busy machine are numbers of a busy machine.
//
// The gateway and every floor are processes of their own, so that CPU is that of the measured process alone; this process
// is the load. Gateway and floors take turns, several rounds each, and medians are compared.
//
//	main.go              flags, order, report       cases*.go   what is measured; cases.go has the targets
//	load.go, websocket.go  clients on bare sockets  proc.go     processes, their CPU and memory
//	floors*.go           the floors                 table.go    the table and RESULTS.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/kateway/kateway/internal/testkit" //nolint:depguard // no part of the gateway: it needs a real Kafka as tests do
)

// bench is one run.
type bench struct {
	binary  string // the gateway
	dir     string // for what gateways and floors store
	rounds  int
	round   time.Duration // length of a round, where not a number of messages decides
	profile string        // directory for CPU profiles; empty: none

	kafka    *testkit.Cluster
	kafkaErr error // why there is none
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "floor" {
		return serveFloors(ctx, args[1])
	}
	b := &bench{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&b.binary, "gateway", "bin/kateway", "the gateway's `binary`")
	flags.IntVar(&b.rounds, "rounds", 5, "rounds of which the median is taken")
	flags.DurationVar(&b.round, "round", 1500*time.Millisecond, "length of a round")
	flags.StringVar(&b.profile, "profile", "", "write CPU profiles of gateway and floors to this `directory`; nothing else is written then")
	only := flags.String("run", "", "only the cases whose name matches this `regexp`; nothing is written then")
	out := flags.String("out", "bench/RESULTS.md", "`file` for the results")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "kateway-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	conditions := conditionsNow(ctx, "make bench")
	results, err := b.all(ctx, wanted)
	if err != nil {
		return err
	}
	fmt.Print("\n", table(results))
	if *only != "" || b.profile != "" {
		return nil
	}
	return os.WriteFile(*out, []byte(report(conditions, results)), 0o644) //nolint:gosec // to be read by all
}

// all measures case after case. One that fails is a row that says so; the others go on.
func (b *bench) all(ctx context.Context, wanted *regexp.Regexp) ([]result, error) {
	defer func() {
		if b.kafka != nil {
			b.kafka.Close()
		}
	}()
	var results []result
	for _, c := range cases() {
		if !wanted.MatchString(c.name) {
			continue
		}
		began := time.Now()
		rows, err := b.one(ctx, c)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			reason, _, _ := strings.Cut(err.Error(), "\n")
			rows = append(rows, result{what: c.name, note: "not measured: " + reason})
		}
		fmt.Fprintf(os.Stderr, "%-20s %5.1f s  %s\n", c.name, time.Since(began).Seconds(), brief(rows))
		results = append(results, rows...)
	}
	return results, nil
}

func (b *bench) one(ctx context.Context, c benchCase) ([]result, error) {
	if c.kafka {
		if err := b.needKafka(); err != nil {
			return nil, err
		}
	}
	return c.run(ctx, b, c.target)
}

// needKafka starts a broker when a case first needs it.
func (b *bench) needKafka() error {
	if b.kafka == nil && b.kafkaErr == nil {
		b.kafka, b.kafkaErr = testkit.StartKafka()
	}
	if errors.Is(b.kafkaErr, testkit.ErrMissing) {
		return fmt.Errorf("no Kafka (Java 17 and Maven are needed): %w", b.kafkaErr)
	}
	return b.kafkaErr
}
