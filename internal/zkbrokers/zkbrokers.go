// Package zkbrokers finds the brokers of a Kafka that keeps its metadata in ZooKeeper (3.x and older): each has an
// ephemeral node under /brokers/ids.
package zkbrokers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/kateway/kateway/internal/errs"
)

const brokerIDs = "/brokers/ids"

// ZooKeeper reads the nodes under Kafka's chroot.
type ZooKeeper interface {
	Children(ctx context.Context, path string) ([]string, error)
	Get(ctx context.Context, path string) (data []byte, version int32, err error)
}

// Protocol is Kafka's name of how a listener is spoken to.
func Protocol(tls, sasl bool) string {
	switch {
	case tls && sasl:
		return "SASL_SSL"
	case tls:
		return "SSL"
	case sasl:
		return "SASL_PLAINTEXT"
	}
	return plaintext
}

const plaintext = "PLAINTEXT"

// BrokersFromZooKeeper answers the host:port of the listener with that protocol of each broker that is alive, sorted by the
// brokers' numbers. Unavailable where there is none: Kafka is down, has its metadata elsewhere (KRaft), or another chroot;
// also where all brokers have listeners with other protocols alone.
func BrokersFromZooKeeper(ctx context.Context, c ZooKeeper, protocol string) ([]string, error) {
	ids, err := c.Children(ctx, brokerIDs)
	if err != nil && !errors.Is(err, errs.NotFound) {
		return nil, fmt.Errorf("listing %s: %w", brokerIDs, err)
	}
	slices.SortFunc(ids, byNumber)
	var brokers []string
	var faults []error
	for _, id := range ids {
		data, _, err := c.Get(ctx, brokerIDs+"/"+id)
		switch {
		case errors.Is(err, errs.NotFound):
			continue // it went since
		case err != nil:
			return nil, fmt.Errorf("broker %s: %w", id, err)
		}
		addr, err := address(data, protocol)
		if err != nil {
			faults = append(faults, fmt.Errorf("broker %s: %w", id, err))
			continue
		}
		brokers = append(brokers, addr)
	}
	if len(brokers) > 0 {
		return brokers, nil
	}
	if len(faults) == 0 {
		faults = append(faults, errors.New("none is registered; is Kafka up, is the chroot right, and does it keep its metadata in ZooKeeper?"))
	}
	return nil, fmt.Errorf("no usable broker under %s: %w: %w", brokerIDs, errors.Join(faults...), errs.Unavailable)
}

func byNumber(a, b string) int {
	m, _ := strconv.Atoi(a)
	n, _ := strconv.Atoi(b)
	return m - n
}

// registration is a broker's node. Since version 2 the listeners are in Endpoints; Host is null there, and Port -1, unless
// one of the listeners is plain.
type registration struct {
	Host      *string           `json:"host"`
	Port      int               `json:"port"`
	Endpoints []string          `json:"endpoints"`
	Protocols map[string]string `json:"listener_security_protocol_map"` // listener's name -> protocol; absent before version 4
}

// address is the broker's listener with the protocol.
func address(data []byte, protocol string) (string, error) {
	var r registration
	if err := json.Unmarshal(data, &r); err != nil {
		return "", fmt.Errorf("its node is not what Kafka writes: %w", err)
	}
	for _, e := range r.Endpoints {
		listener, addr, _ := strings.Cut(e, "://")
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host == "" || port == "" {
			return "", fmt.Errorf("endpoint %q is not listener://host:port", e)
		}
		if r.speaks(listener, protocol) {
			return net.JoinHostPort(host, port), nil
		}
	}
	if protocol == plaintext && r.Host != nil && *r.Host != "" && r.Port > 0 {
		return net.JoinHostPort(*r.Host, strconv.Itoa(r.Port)), nil
	}
	return "", fmt.Errorf("none of its listeners %q is %s; name the brokers in the configuration, or say whether there is TLS and SASL", r.Endpoints, protocol)
}

// speaks tells a listener with the protocol. Its name may be anything; where nothing else is said it is the protocol's.
func (r *registration) speaks(listener, protocol string) bool {
	if p, known := r.Protocols[listener]; known {
		return p == protocol
	}
	return listener == protocol
}
