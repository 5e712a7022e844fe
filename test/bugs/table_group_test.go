package bugs

// groupBugs are of who gets which message, and what is over.
func groupBugs() []bug {
	return []bug{{
		name: "commit_beyond_what_is_done", loses: "at a kill, every message that a client had in its hands",
		file: "group/position.go",
		old:  "return store.Position{Partition: w.partition, Next: w.next, Beyond: b.encode(w.next)}",
		new:  "return store.Position{Partition: w.partition, Next: max(w.next, w.top), Beyond: \"\"}",
		pkg:  "group", test: "TestCleanMoveKeepsEverything", says: "want the contiguous prefix",
	}, {
		name: "done_when_delivered", loses: "at a kill, every message that was on its way to a client",
		file: "group/shared.go",
		old:  "l.hand(e, s.c, now, s.c.lease)", new: "l.hand(e, s.c, now, s.c.lease)\n\tl.finish(e, now)",
		pkg: "test", test: "TestKilledUnderLoad/embedded", says: "anomalies; the history is in",
	}, {
		name: "first_of_a_fetch_passed_over", loses: "one message of each fetch, as if retention had taken it",
		file: "group/ledger.go",
		old:  "case m.Offset >= w.end:", new: "case i == 0 && len(msgs) > 1 && m.Offset == w.end:\n\t\t\tw.end++\n\t\tcase m.Offset >= w.end:",
		pkg: "test", test: "TestHealthyIsPerfect/embedded", says: "C1: ",
	}, {
		name: "attempts_not_counted", loses: "the dead queue: a poison message comes for ever",
		file: "group/ledger.go",
		old:  "\te.attempt++\n\tw.due--", new: "\te.attempt = max(e.attempt, 1)\n\tw.due--",
		pkg: "group", test: "TestPoison",
	}, {
		name: "one_attempt_too_many", loses: "max_attempts, by one",
		file: "group/outbox.go",
		old:  "int64(e.attempt) >= int64(l.policy.MaxAttempts)", new: "int64(e.attempt) > int64(l.policy.MaxAttempts)",
		pkg: "group", test: "TestPoison",
	}, {
		name: "old_receipt_accepted", loses: "a message that is with another client: who has lost it acks it",
		file: "group/window.go",
		old:  "valid = e.state == leased && e.attempt == r.Attempt", new: "valid = e.state == leased",
		pkg: "group", test: "TestLives/queue",
	}, {
		name: "receipt_not_verified", loses: "whatever a client likes to ack by a receipt of its own making",
		file: "group/receipt.go",
		old:  "if subtle.ConstantTimeCompare(r.mac(body), mac) != 1 {", new: "if subtle.ConstantTimeCompare(r.mac(body), mac) > 1 {",
		pkg: "group", test: "TestReceiptForged",
	}, {
		name: "done_before_it_is_in_the_dead_queue", loses: "a dead message, when its queue fails or the gateway is killed",
		file: "group/window.go",
		old:  "for i < len(w.entries) && w.entries[i].state == done {", new: "for i < len(w.entries) && w.entries[i].state >= moving {",
		pkg: "group", test: "TestMoveUnderWayAtTheEnd",
	}, {
		name: "key_order_lost", loses: "the order of a key: its next message is delivered before the first is acked",
		file: "group/shared.go",
		old:  "\tcase !out:\n\t\te.chain = c\n\t\tc.rest.pushBack(e)\n", new: "",
		pkg: "group", test: "TestLives/key",
	}, {
		name: "who_leaves_keeps_its_messages", loses: "for as long as a lease lasts, what a client held that has gone",
		file: "group/ledger.go",
		old:  "l.giveBack(c, now)", new: "",
		pkg: "group", test: "TestLives/queue",
	}, {
		name: "filtered_message_holds_the_commit", loses: "a lag that goes to zero: a message that the group does not want stays undone",
		file: "group/ledger.go",
		old:  "\t\tl.count.filtered++\n\t\tw.dirty = true\n", new: "\t\tl.count.filtered++\n\t\tw.end = offset\n\t\tw.dirty = true\n",
		pkg: "group", test: "TestLives/queue",
	}, {
		name: "acks_above_the_commit_not_carried", loses: "that what was acked does not come again when a group moves",
		file: "group/beyond.go",
		old:  "if len(b.done) == 0 && len(b.held) == 0 && b.anew <= next {", new: "if b.anew <= next {",
		pkg: "group", test: "TestCleanMoveKeepsEverything",
	}, {
		name: "lease_never_ends", loses: "every message of a client that hangs",
		file: "group/ledger.go",
		old:  "e != nil && e.until <= now; e = l.clock.first()", new: "e != nil && e.until < 0; e = l.clock.first()",
		pkg: "group", test: "TestLives/queue",
	}, {
		name: "window_without_bound", loses: "the process's memory, by one client that acks nothing",
		file: "group/ledger.go",
		old:  "if w.full || !l.begun {", new: "if !l.begun {",
		pkg: "group", test: "TestFullWindowsArePausedAndFreedAtHalf",
	}, {
		name: "fifo_partition_with_two_clients", loses: "the order of a partition in mode fifo: two clients work on it at once",
		file: "group/fifo.go",
		old:  "\tif c := w.owner; c != nil {\n\t\ti := slices", new: "\tif c := w.owner; c != nil && w.alone {\n\t\ti := slices",
		pkg: "group", test: "TestFifoPartitionHasOneClientUntilAClean",
	}}
}
