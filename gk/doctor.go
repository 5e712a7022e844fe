package gk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	probeTime = 5 * time.Second // how long a gateway may take to say how it is
	atOnce    = 8               // gateways looked at at a time
	maxSkew   = 2 * time.Second // what clocks may differ by; the header that tells has whole seconds
)

// level is how bad a finding is.
type level string

const (
	levelOK   level = "ok"
	levelWarn level = "warn" // it works, and may not when it is needed
	levelFail level = "fail" // it does not work
)

// finding is one thing that doctor looked at.
type finding struct {
	Level  level  `json:"level"`
	Check  string `json:"check"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

type doctor struct {
	Data    string   `placeholder:"DIR" help:"The data directory of a gateway on this machine, to look at the modes of its secrets' files."`
	Brokers []string `placeholder:"BROKERS" help:"Ask these Kafka brokers, too (KATEWAY_KAFKA)."`
	kafkaLink
}

// Help is the second paragraph of its --help.
func (doctor) Help() string {
	return "Each finding says what to do about it. It ends with 1 when one is a warning or a failure, with 3 when the gateway does not answer at all."
}

// diagnosis is a run of doctor.
type diagnosis struct {
	*doctor
	*tool
	findings []finding
}

func (d *diagnosis) find(l level, check, advice, format string, args ...any) {
	d.findings = append(d.findings, finding{l, check, fmt.Sprintf(format, args...), advice})
}

func (d *diagnosis) ok(check, format string, args ...any) {
	d.find(levelOK, check, "", format, args...)
}

// failed reports an error of a check.
func (d *diagnosis) failed(check string, err error) {
	d.find(levelFail, check, "look at the gateway's log for this request", "%v", err)
}

func (c *doctor) Run(ctx context.Context, t *tool) error {
	d := &diagnosis{doctor: c, tool: t}
	d.files()
	d.address()
	err := d.gateway(ctx)
	if err == nil {
		d.status(ctx)
		d.cluster(ctx)
		d.clusters(ctx)
	}
	d.kafka(ctx)
	if err := errors.Join(d.show(), ctx.Err()); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(d.findings, func(f finding) bool { return f.Level != levelOK }) {
		return &foundError{}
	}
	return nil
}

func (d *diagnosis) show() error {
	d.out.begin("LEVEL", "CHECK", "FINDING")
	for _, f := range d.findings {
		if err := d.out.made(f, string(f.Level), f.Check, f.Text); err != nil {
			return err
		}
		if f.Advice != "" && !d.out.json {
			d.out.row("", "", "-> "+f.Advice)
		}
	}
	return d.out.end()
}

// secretFiles are what a data directory has that nobody else may read.
func secretFiles(dir string) []string {
	return []string{filepath.Join(dir, "admin-key"), filepath.Join(dir, "secret")}
}

// files looks at who else can read the secrets of this machine.
func (d *diagnosis) files() {
	files := []string{d.global.AdminKeyFile}
	if d.Data != "" {
		files = append(files, secretFiles(d.Data)...)
	}
	for _, name := range files {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			d.find(levelWarn, "files", "run doctor as the user that the gateway runs as", "%v", err)
		case info.Mode().Perm()&0o077 != 0:
			d.find(levelFail, "files", "chmod 600 "+name+", and replace what is in it if others use this machine",
				"%s can be read by others: mode %#o", name, info.Mode().Perm())
		default:
			d.ok("files", "%s can be read by its owner only", name)
		}
	}
}

// address looks at the way that the admin key takes.
func (d *diagnosis) address() {
	u, err := url.Parse(d.man.base)
	if err != nil || u.Scheme != "http" || isLoopback(u.Hostname()) || d.man.header.Get("Authorization") == "" {
		return
	}
	d.find(levelWarn, "admin key", "serve the management API over TLS (--tls-cert, --tls-key), or ask it through an ssh tunnel",
		"it goes to %s in clear text: whoever is on the way can read it", u.Host)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// gateway asks the one gateway that we know how it is. An error means that there is nothing more to ask.
func (d *diagnosis) gateway(ctx context.Context) error {
	r, err := ready(ctx, d.man, "")
	if err != nil {
		d.find(levelFail, "gateway", "is it running, and is --man (or KATEWAY_MAN) its management address?", "%v", err)
		return err
	}
	if r.Status == "ok" {
		d.ok("gateway", "%s is ready", d.man.base)
	}
	d.parts("gateway", d.man.base, r)
	return nil
}

// remedies are what to do about parts that fail.
var remedies = map[string]string{
	"store":     "are the brokers up and reachable from the gateway? gk brokers --brokers HOST:PORT asks them; of the embedded store, the gateway's log says why",
	"disk":      "free space on the file system of --data, or shorten the retention of topics",
	"zookeeper": "are ZooKeeper's servers up and reachable from the gateway? Publish and subscribe go on without; changes of apps, topics and grants wait",
	"meta":      "repair what it names, or restore it; the last good state of it is in use",
}

func (d *diagnosis) parts(check, where string, r *readiness) {
	if r.Status == "draining" {
		d.find(levelWarn, check, "wait until it has stopped or started anew", "%s is stopping", where)
	}
	for _, name := range r.names() {
		l := levelWarn
		switch r.Parts[name] {
		case "ok":
			continue
		case "down":
			l = levelFail
		}
		advice := remedies[name]
		if advice == "" {
			advice = "the gateway's log says why"
		}
		d.find(l, check, advice, "%s: %s is %s", where, name, r.part(name))
	}
}

// status is what the gateway itself knows to be weak.
func (d *diagnosis) status(ctx context.Context) {
	a, err := d.man.get(ctx, "/v1/status", nil)
	if err != nil {
		d.failed("status", err)
		return
	}
	var s identity
	if err := a.into(&s); err != nil {
		d.failed("status", err)
		return
	}
	for _, w := range s.Warnings {
		text, advice := advised(w)
		d.find(levelWarn, "settings", advice, "%s", text)
	}
	if len(s.Warnings) == 0 {
		d.ok("settings", "gateway %s knows of nothing that weakens the guarantees", s.ID)
	}
}

// advised parts a warning from what it says to do: that stands last, behind a colon.
func advised(warning string) (text, advice string) {
	if i := strings.LastIndex(warning, ": "); i >= 0 {
		return warning[:i], warning[i+2:]
	}
	return warning, ""
}

// clusters asks for the Kafka clusters as the gateway sees them.
func (d *diagnosis) clusters(ctx context.Context) {
	for c, err := range d.clusterList(ctx) {
		switch {
		case err != nil:
			d.failed("clusters", err)
		case c.Fault != "":
			d.find(levelFail, "clusters", "are its brokers up, and are their addresses right? gk clusters set changes them", "cluster %s: %s", c.Name, c.Fault)
		case c.Live != nil:
			d.replication("clusters", "cluster "+c.Name+": ", len(c.Live.Brokers), c.Live.Leaderless, c.Live.UnderReplicated)
		}
	}
}

// replication is what a cluster's partitions lack.
func (d *diagnosis) replication(check, where string, brokers, leaderless, underReplicated int) {
	if leaderless > 0 {
		d.find(levelFail, check, "start the brokers that hold them", "%s%d partitions have no leader", where, leaderless)
	}
	if underReplicated > 0 {
		d.find(levelWarn, check, "start the brokers that are missing, or wait until they have caught up", "%s%d partitions lack a replica in sync", where, underReplicated)
	}
	if leaderless+underReplicated == 0 {
		d.ok(check, "%s%d brokers, and all partitions have their replicas", where, brokers)
	}
}

// kafka asks the brokers themselves, where they are named.
func (d *diagnosis) kafka(ctx context.Context) {
	if len(d.Brokers) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, d.global.Timeout)
	defer cancel()
	s, err := openKafka(ctx, d.Brokers, &d.kafkaLink)
	if err != nil {
		d.find(levelFail, "kafka", "are these the brokers' addresses, and can this machine reach them?", "%v", err)
		return
	}
	defer closeKafka(ctx, s)
	c, err := s.Describe(ctx)
	if err != nil {
		d.failed("kafka", err)
		return
	}
	d.replication("kafka", "", len(c.Brokers), c.Leaderless, c.UnderReplicated)
	warnings, err := s.Warnings(ctx)
	if err != nil {
		d.failed("kafka", err)
		return
	}
	for _, w := range warnings {
		text, advice := advised(w)
		d.find(levelWarn, "kafka", advice, "%s", text)
	}
}
