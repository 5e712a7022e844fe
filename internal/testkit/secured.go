package testkit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Listener is one of a broker's own with TLS, and SASL of PLAIN and SCRAM-SHA-512.
type Listener struct {
	Name      string // letters, in any case
	Cert, Key string // files in PEM
	ClientCA  string // whose certificates clients must show; "" asks for none
}

// Secured gives the brokers such listeners, beside the one without TLS that Addrs names, and SCRAM credentials and PLAIN
// passwords of these users. An authentication is good for reauth seconds, then the client must show its credentials again
// or is cut off; 0 is for good.
func Secured(users map[string]string, reauth int, listeners ...Listener) Option {
	return func(o *options) { o.users, o.reauth, o.listeners = users, reauth, listeners }
}

// SecuredAddrs are the brokers' addresses of that listener.
func (c *Cluster) SecuredAddrs(listener string) []string {
	var addrs []string
	for _, b := range c.brokers {
		addrs = append(addrs, b.secured[listener])
	}
	return addrs
}

// secure is the lines of a broker's property file for its listeners with TLS.
func (b *broker) secure(o options, ports []int) (string, error) {
	var lines, addrs []string
	protocols := "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
	plain := "org.apache.kafka.common.security.plain.PlainLoginModule required"
	for user, password := range o.users {
		plain += fmt.Sprintf(" user_%s=%q", user, password)
	}
	b.secured = map[string]string{}
	for i, l := range o.listeners {
		name := strings.ToUpper(l.Name)
		b.secured[l.Name] = fmt.Sprintf("127.0.0.1:%d", ports[i])
		addrs = append(addrs, name+"://"+b.secured[l.Name])
		protocols += "," + name + ":SASL_SSL"
		pair, err := joinPEM(filepath.Join(b.dir, l.Name+".pem"), l.Key, l.Cert)
		if err != nil {
			return "", err
		}
		set := func(key, value string) {
			lines = append(lines, "listener.name."+strings.ToLower(name)+"."+key+"="+value)
		}
		set("ssl.keystore.type", "PEM")
		set("ssl.keystore.location", pair)
		if l.ClientCA != "" {
			set("ssl.truststore.type", "PEM")
			set("ssl.truststore.location", l.ClientCA)
			set("ssl.client.auth", "required")
		}
		set("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512")
		set("plain.sasl.jaas.config", plain+";")
		set("scram-sha-512.sasl.jaas.config", "org.apache.kafka.common.security.scram.ScramLoginModule required;")
		if o.reauth > 0 {
			set("plain.connections.max.reauth.ms", fmt.Sprint(1000*o.reauth))
			set("scram-sha-512.connections.max.reauth.ms", fmt.Sprint(1000*o.reauth))
		}
	}
	if len(lines) == 0 {
		return "", nil
	}
	controller := fmt.Sprintf("CONTROLLER://127.0.0.1:%d", b.controller)
	all := slices.Insert(addrs, 0, "PLAINTEXT://"+b.addr)
	lines = append(lines, "listeners="+strings.Join(append(slices.Clone(all), controller), ","),
		"advertised.listeners="+strings.Join(all, ","), "listener.security.protocol.map="+protocols)
	return strings.Join(lines, "\n") + "\n", nil
}

// joinPEM writes one file of several, as Java wants a key with its certificate.
func joinPEM(to string, files ...string) (string, error) {
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		all = append(all, b...)
	}
	return to, os.WriteFile(to, all, 0o600)
}

// scram is the arguments of the format tool that make the users.
func scram(users map[string]string) []string {
	var args []string
	for user, password := range users {
		args = append(args, "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", user, password))
	}
	return args
}
