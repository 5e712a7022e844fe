package gk

import (
	"fmt"
	"strings"
	"time"

	"github.com/kateway/kateway/meta"
)

// global are the options of every command.
type global struct {
	Man          string        `placeholder:"URL" default:"http://127.0.0.1:9193" help:"The gateway's management address (KATEWAY_MAN)."`
	AdminKeyFile string        `placeholder:"FILE" help:"File with the admin key (KATEWAY_ADMIN_KEY_FILE). Without it the key is that of KATEWAY_ADMIN_KEY, if any."`
	CAFile       string        `name:"ca-file" placeholder:"FILE" help:"Certificates (PEM) of the authorities to trust besides those of the system (KATEWAY_CA_FILE)."`
	Output       string        `short:"o" enum:"table,json" default:"table" help:"table or json. JSON is as the gateway wrote it; lists are arrays with an element per line."`
	Timeout      time.Duration `default:"30s" help:"How long one request may take; streams have no limit."`
}

// caller is who publishes and subscribes, for the commands that do.
type caller struct {
	App        string `placeholder:"NAME" help:"The calling app. Without it the app that owns the topic."`
	AppKeyFile string `placeholder:"FILE" help:"File with the app's key (KATEWAY_APP_KEY_FILE). Without it the key is that of KATEWAY_APP_KEY, if any."`
}

// pubAddress is where to publish.
type pubAddress struct {
	Pub string `placeholder:"URL" help:"The gateway's pub address (KATEWAY_PUB). Without it the management API is asked for it, and if it can't be: http://127.0.0.1:9191."`
}

// subAddress is where to subscribe.
type subAddress struct {
	Sub string `placeholder:"URL" help:"The gateway's sub address (KATEWAY_SUB). Without it the management API is asked for it, and if it can't be: http://127.0.0.1:9191."`
}

// match guards a change.
type match struct {
	IfMatch string `placeholder:"ETAG" help:"Change it only if it still has this ETag, as get shows it."`
}

// topicArg is app/topic/version, or as Kafka's tools show it, app.topic.version.
type topicArg struct{ meta.Topic }

// UnmarshalText checks the parts by their rules.
func (t *topicArg) UnmarshalText(b []byte) error {
	part := strings.FieldsFunc(string(b), func(r rune) bool { return r == '/' || r == '.' })
	if len(part) != 3 {
		return fmt.Errorf("topic %q: must be app/topic/version", b)
	}
	var err error
	t.Topic, err = meta.ParseTopic(part[0], part[1], part[2])
	return err
}

// path are the segments of the topic in a path.
func (t topicArg) path() []string { return []string{t.App, t.Name, t.Ver} }

// commands is the command line.
type commands struct {
	Global global `embed:""`

	Apps struct {
		Ls  appsLs  `cmd:"" help:"List apps."`
		Get appsGet `cmd:"" help:"Show an app."`
		Add appsAdd `cmd:"" help:"Register an app."`
		Set appsSet `cmd:"" help:"Change an app."`
		Rm  appsRm  `cmd:"" help:"Remove an app and its keys. It must have no topics."`
	} `cmd:"" help:"Apps: the tenants."`
	Keys struct {
		Ls  keysLs  `cmd:"" help:"List an app's keys; the secrets are not known to anybody."`
		Add keysAdd `cmd:"" help:"Make a key and show it, this once."`
		Rm  keysRm  `cmd:"" help:"Revoke a key."`
	} `cmd:"" help:"Keys of apps."`
	Topics struct {
		Ls  topicsLs  `cmd:"" help:"List topics, or with --cluster those that Kafka has."`
		Get topicsGet `cmd:"" help:"Show a topic."`
		Add topicsAdd `cmd:"" help:"Make a topic."`
		Set topicsSet `cmd:"" help:"Change a topic; partitions can only grow, and keys then move between them."`
		Rm  topicsRm  `cmd:"" help:"Delete a topic with its messages; of a mapped one, the mapping only."`
		Map topicsMap `cmd:"" help:"Give a topic that Kafka has already a name here. Nothing is made."`

		Schema struct {
			Ls  schemaLs  `cmd:"" help:"List the versions of a topic's schema."`
			Get schemaGet `cmd:"" help:"Show the schema of a topic."`
			Set schemaSet `cmd:"" help:"Give a topic a schema, or the next version of it."`
			Rm  schemaRm  `cmd:"" help:"Let a topic have no schema any more."`
		} `cmd:"" help:"What messages of a topic may be. It takes the plugin schema to have them checked."`
	} `cmd:"" help:"Topics."`
	Subs struct {
		Ls     subsLs     `cmd:"" help:"List who may read what."`
		Grant  subsGrant  `cmd:"" help:"Let an app read a topic of another."`
		Revoke subsRevoke `cmd:"" help:"Take that back."`
	} `cmd:"" help:"Subscriptions: which app may read which topic of another."`
	Groups struct {
		Ls   groupsLs   `cmd:"" help:"List the groups of a topic."`
		Get  groupsGet  `cmd:"" help:"Show a group: members, positions, lag."`
		Seek groupsSeek `cmd:"" help:"Move a group to another position, also while it has clients."`
		Rm   groupsRm   `cmd:"" help:"Forget a group. It must have no clients."`
	} `cmd:"" help:"Consumer groups. A group is <app>.<group>, or the bare name where the app is the topic's own."`
	Offsets struct {
		Show offsetsShow `cmd:"" help:"Show a group's positions."`
		Set  offsetsSet  `cmd:"" help:"Set a group's positions, also while it has clients."`
	} `cmd:"" help:"Positions of a group, by partition."`
	Dead struct {
		Ls      deadLs      `cmd:"" help:"List what a group gave up."`
		Requeue deadRequeue `cmd:"" help:"Have it delivered to the group again."`
		Purge   deadPurge   `cmd:"" help:"Forget it."`
	} `cmd:"" help:"Dead messages of a group: those that it could not do."`
	Spool struct {
		Show    spoolShow    `cmd:"" default:"1" help:"What is in it, by topic."`
		Aside   spoolAside   `cmd:"" help:"List messages that the store refused for good."`
		Requeue spoolRequeue `cmd:"" help:"Put such messages into the spool again."`
		Discard spoolDiscard `cmd:"" help:"Remove such messages."`
	} `cmd:"" help:"The gateway's spool: messages that wait on its disk for Kafka."`
	Lag      lag      `cmd:"" help:"How far the groups of a topic are behind."`
	Gateways gateways `cmd:"" help:"List the gateways."`
	Clients  clients  `cmd:"" help:"List who publishes and subscribes now, over all gateways."`
	Clusters struct {
		Ls  clustersLs  `cmd:"" help:"List Kafka clusters and their brokers."`
		Get clustersGet `cmd:"" help:"Show a cluster."`
		Add clustersAdd `cmd:"" help:"Register a cluster."`
		Set clustersSet `cmd:"" help:"Change where a cluster is found."`
		Rm  clustersRm  `cmd:"" help:"Remove a cluster. No app may live on it."`
	} `cmd:"" help:"Kafka clusters."`
	Options struct {
		Ls  optionsLs  `cmd:"" help:"List the hot options."`
		Get optionsGet `cmd:"" help:"Show an option."`
		Set optionsSet `cmd:"" help:"Set an option on all gateways."`
	} `cmd:"" help:"Options that change while the gateways run."`
	Adminkeys struct {
		Ls  adminkeysLs  `cmd:"" help:"List admin keys."`
		Add adminkeysAdd `cmd:"" help:"Make an admin key and show it, this once."`
		Rm  adminkeysRm  `cmd:"" help:"Revoke an admin key."`
	} `cmd:"" help:"Keys of the management API."`
	Audit struct {
		Verify auditVerify `cmd:"" help:"Look for changes in audit logs. No gateway is asked."`
	} `cmd:"" help:"Audit logs."`
	Peek       peek          `cmd:"" help:"Show messages of a topic. No group is touched."`
	Tail       tail          `cmd:"" help:"Show messages as they are published, until interrupted. No group is touched."`
	Pub        publish       `cmd:"" help:"Publish the lines of standard input, a message each."`
	Sub        subscribe     `cmd:"" help:"Print the messages of a group, until interrupted. They are done once they are printed."`
	Brokers    brokers       `cmd:"" help:"Ask Kafka itself for its brokers, and for settings that weaken the guarantees."`
	Status     status        `cmd:"" help:"Show the gateway: version, roles, store, warnings, readiness."`
	Top        top           `cmd:"" help:"Show live rates."`
	Doctor     doctor        `cmd:"" help:"Look for what is wrong with the deployment, and say what to do."`
	Bench      bench         `cmd:"" help:"Put a short load on a topic and measure it. It publishes messages of its own."`
	Refresh    refresh       `cmd:"" help:"Make all gateways read their metadata anew."`
	Completion completion    `cmd:"" help:"Print the completion script of a shell."`
	Version    versionOfTool `cmd:"" help:"Print the version of this tool."`
}
