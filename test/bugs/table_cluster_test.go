package bugs

// clusterBugs are of a gateway's beginning and end, and of several of them.
func clusterBugs() []bug {
	return []bug{{
		name: "listeners_closed_at_once", loses: "requests at every restart: load balancers still send some",
		file: "gateway/stop.go",
		old:  "\twait(limit, g.cfg.DrainDelay)\n\tg.hangUp()\n", new: "\tg.hangUp()\n\twait(limit, g.cfg.DrainDelay)\n",
		pkg: "gateway", test: "TestStopTellsBeforeItCloses",
	}, {
		name: "idle_connections_cut", loses: "requests at every restart: those on their way over a connection that is kept",
		file: "gateway/stop.go",
		old:  "\tg.letGo(limit)\n", new: "",
		pkg: "gateway", test: "TestStopLetsIdleConnectionsComeOnceMore",
	}, {
		name: "ready_while_the_store_is_away", loses: "what a load balancer looks at: it sends requests to a gateway that can't serve",
		file: "gateway/health.go",
		old:  "case time.Since(p.last) > probeStale, p.failures > 1:", new: "case time.Since(p.last) > probeStale:",
		pkg: "gateway", test: "TestHealthFollowsTheStore",
	}, {
		name: "gone_from_meta_while_it_can_not_be_read", loses: "every app of a bucket that ZooKeeper can't give for a moment",
		file: "meta/directory.go",
		old:  "if _, ok := u.Objects[id]; !ok && !hidden(d.source.Place(id), u.Faults) {", new: "if _, ok := u.Objects[id]; !ok {",
		pkg: "meta", test: "TestStartWithAFault",
	}, {
		name: "damaged_object_removed", loses: "an app, by one bad byte in what is kept of it",
		file: "meta/directory.go",
		old:  "\t\td.unsound[id] = err\n\t\treturn\n", new: "\t\td.unsound[id] = err\n\t\te.remove(id)\n\t\treturn\n",
		pkg: "meta", test: "TestGarbageKeepsTheLastGoodContent",
	}, {
		name: "verbs_of_a_moving_group_lost", loses: "acks that come while a group moves to another gateway",
		file: "home/session.go",
		old:  "verbs[i].Op != group.Return && (errors.Is(err, errLost) ||", new: "verbs[i].Op == group.Return && (errors.Is(err, errLost) ||",
		pkg: "home", test: "TestSettleAfterAMove",
	}, {
		name: "client_forgotten_when_its_group_moves", loses: "for a lease, what a client has in its hands when its group moves",
		file: "home/session.go",
		old:  "s.inner, s.home, s.moved, s.held = nil, \"\", now, held", new: "s.inner, s.home, s.moved, s.held = nil, \"\", now, held[:0]",
		pkg: "home", test: "TestLeavingBetweenHomes",
	}}
}
