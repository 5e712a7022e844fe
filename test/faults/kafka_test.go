package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// leader is the broker that leads the first partition of the storm's topic, from 0.
func (c *chaos) leader() (int, error) {
	ctx, cancel := c.ctx()
	defer cancel()
	topics, err := c.admin.ListTopics(ctx, c.storm.InStore())
	if err != nil {
		return 0, err
	}
	p, ok := topics[c.storm.InStore()].Partitions[0]
	if !ok || p.Leader < 1 {
		return 0, fmt.Errorf("the topic has no leader: %+v", p)
	}
	return int(p.Leader) - 1, nil
}

// controller is the broker that leads the quorum of controllers.
func (c *chaos) controller() (int, error) {
	ctx, cancel := c.ctx()
	defer cancel()
	req := kmsg.NewPtrDescribeQuorumRequest()
	req.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: "__cluster_metadata", Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{Partition: 0}}}}
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return 0, err
	}
	if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 || resp.Topics[0].Partitions[0].LeaderID < 1 {
		return 0, fmt.Errorf("the controllers have no leader: %+v", resp)
	}
	return int(resp.Topics[0].Partitions[0].LeaderID) - 1, nil
}

// inSync reports whether each partition has all its replicas.
func (c *chaos) inSync() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	topics, err := c.admin.ListTopics(ctx)
	if err != nil {
		return false
	}
	all := true
	topics.EachPartition(func(p kadm.PartitionDetail) { all = all && len(p.ISR) == len(p.Replicas) })
	return all
}

func (c *chaos) partitions(ctx context.Context) (int, error) {
	topics, err := c.admin.ListTopics(ctx, c.storm.InStore())
	if err != nil {
		return 0, err
	}
	return len(topics[c.storm.InStore()].Partitions), nil
}

// moveLeader makes another replica the preferred leader of each partition, and has it elected.
func (c *chaos) moveLeader() error {
	before, err := c.leader()
	if err != nil {
		return err
	}
	ctx, cancel := c.ctx()
	defer cancel()
	name := c.storm.InStore()
	topics, err := c.admin.ListTopics(ctx, name)
	if err != nil {
		return err
	}
	var to kadm.AlterPartitionAssignmentsReq
	var which kadm.TopicsSet
	for _, p := range topics[name].Partitions {
		to.Assign(name, p.Partition, append(append([]int32(nil), p.Replicas[1:]...), p.Replicas[0]))
		which.Add(name, p.Partition)
	}
	if _, err := c.admin.AlterPartitionAssignments(ctx, to); err != nil {
		return err
	}
	return until(60*time.Second, "another leader", func() bool {
		_, _ = c.admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, which) // not before the assignment is done
		now, err := c.leader()
		return err == nil && now != before
	})
}

// topic makes one, by a gateway.
func (c *chaos) topic(name string, partitions int) error {
	body, err := json.Marshal(map[string]any{"app": app, "topic": name, "ver": "v1", "partitions": partitions, "replicas": 3, "max_attempts": 1000})
	if err != nil {
		return err
	}
	said := ""
	err = until(60*time.Second, "topic "+name+" to be made", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		a, err := c.gateways[0].web.Exchange(ctx, http.MethodPost, "/v1/topics", strings.NewReader(string(body)), "Content-Type", "application/json")
		if err != nil {
			said = err.Error()
			return false
		}
		said = a.String()
		return a.StatusCode == http.StatusCreated || a.StatusCode == http.StatusConflict // a 503 may have been done
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}

// owner is the session that has the gateway's entry in the registry, 0 where there is none.
func (c *chaos) owner(g *gateway) (int64, error) {
	there, stat, err := c.keeper.Exists("/kateway/gateways/" + g.name)
	if err != nil || !there {
		return 0, err
	}
	return stat.EphemeralOwner, nil
}

var sent = regexp.MustCompile(`Sent (\d+) bytes`)

// queued is how many bytes the slow link has let pass.
func (h *host) queued() (int, error) {
	cmd := append(h.command(), "tc", "-s", "qdisc", "show", "dev", "eth0")
	out, err := exec.Command(cmd[0], cmd[1:]...).Output()
	if err != nil {
		return 0, err
	}
	m := sent.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s", out)
	}
	return strconv.Atoi(string(m[1]))
}
