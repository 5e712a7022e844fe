package bugs

import "slices"

// storeBugs are of what keeps messages.
func storeBugs() []bug {
	return slices.Concat(embeddedBugs(), spoolBugs(), kafkaBugs())
}

func embeddedBugs() []bug {
	return []bug{{
		name: "ack_before_sync", loses: "at a power loss, messages that were answered 201",
		file: "store/embedded/writer.go",
		old:  "case o.fill == nil && o.ack == store.AckLocal, o.lazy, !r.sync:",
		new:  "case o.fill == nil, o.lazy, !r.sync:",
		pkg:  "store/embedded", test: "TestPowerLoss",
	}, {
		name: "failed_sync_confirmed", loses: "messages that were answered 201 by a disk that failed",
		file: "internal/disk/guard.go",
		old:  "{ return f.guard.check(\"sync\", f.name, f.File.SyncData()) }", new: "{ _ = f.File.SyncData(); return nil }",
		pkg: "store/embedded", test: "TestFailedLogIsNeverConfirmed",
	}, {
		name: "full_disk_ignored", loses: "the reserve by which acks still count on a full disk",
		file: "store/embedded/writer.go",
		old:  "case !w.s.space.Admit(uint64(o.bytes)):", new: "case false:",
		pkg: "store/embedded", test: "TestFullDisk",
	}, {
		name: "idempotency_key_forgotten_by_kill", loses: "that a publish which is repeated after a kill is stored once",
		file: "store/embedded/once.go",
		old:  "return nil, err\n\t}\n\treturn c, nil\n}\n\nfunc (s *Store) expired", new: "return nil, err\n\t}\n\treturn nil, nil\n}\n\nfunc (s *Store) expired",
		pkg: "store/embedded", test: "TestStore/OnceSurvivesReopen",
	}, {
		name: "idempotency_digest_not_compared", loses: "a message that was sent with the key of another one, and answered 201",
		file: "store/embedded/once.go",
		old:  "if c.digest != once.Digest || len(c.placed) != len(msgs) {", new: "if len(c.placed) != len(msgs) {",
		pkg: "store/embedded", test: "TestStore/OnceMismatch",
	}, {
		name: "position_of_former_owner_taken", loses: "that a message is with one client at a time, after a rebalance",
		file: "store/embedded/group.go",
		old:  "if p < 0 || int(p) >= len(g.shares) || g.shares[p].owner != f {", new: "if p < 0 || int(p) >= len(g.shares) {",
		pkg: "store/embedded", test: "TestStore/MembersFenced",
	}, {
		name: "given_before_let_go", loses: "that a message is with one client at a time, while a gateway joins",
		file: "store/embedded/feed.go",
		old:  "case !holds && sh.heir == f && sh.owner != nil && now.Before(sh.due):", new: "case !holds && sh.heir == f && sh.owner != nil && now.After(sh.due.Add(time.Hour)):",
		pkg: "store/embedded", test: "TestStore/MembersMoveCleanly",
	}, {
		name: "skip_on_rebalance", loses: "what nobody had read of a partition when it changed hands",
		file: "store/embedded/feed.go",
		old:  "f.cursors[p] = newCursor(part, next)",
		new:  "if _, end := part.bounds(); next > 0 {\n\t\tnext = end.offset\n\t}\n\tf.cursors[p] = newCursor(part, next)",
		pkg:  "test", test: "TestKilledUnderLoad/embedded", says: "C1: ",
	}, {
		name: "retention_takes_one_too_many", loses: "messages that are not as old as the retention says",
		file: "store/embedded/sweep.go",
		old:  "if err != nil || to.offset <= start.offset {\n\t\treturn err\n\t}\n\tvar from, until",
		new:  "if err != nil || to.offset <= start.offset {\n\t\treturn err\n\t}\n\tto.offset++\n\tvar from, until",
		pkg:  "store/embedded", test: "TestRetentionByTime",
	}}
}

func spoolBugs() []bug {
	return []bug{{
		name: "spooled_before_sync", loses: "at a power loss, messages that were answered 202",
		file: "store/spool/writer.go",
		old:  "if s.cfg.noSync {\n\t\terr = s.db.Apply(", new: "if s.cfg.noSync = true; s.cfg.noSync {\n\t\terr = s.db.Apply(",
		pkg: "store/spool", test: "TestPowerLoss",
	}, {
		name: "spooled_dropped_on_unknown_error", loses: "messages that were answered 202, when a broker answers something new",
		file: "store/spool/drain.go",
		old:  "if e == nil {\n\t\t\tstored[i] = true", new: "if e == nil || inDoubt(e) {\n\t\t\tstored[i] = true",
		pkg: "store/spool", test: "TestDrainInDoubt",
	}, {
		name: "spool_overtaken", loses: "the order of a key, when Kafka comes back",
		file: "store/spool/spool.go",
		old:  "if s.busy.Load() != 0 {\n\t\treturn s.behind(ctx, ctx, name, ack, nil, msgs)", new: "if s.busy.Load() < 0 {\n\t\treturn s.behind(ctx, ctx, name, ack, nil, msgs)",
		pkg: "store/spool", test: "TestOutage",
	}, {
		name: "doubtful_spooled", loses: "that a message which Kafka may have is not stored twice",
		file: "store/spool/spool.go",
		old:  "return kind == errs.Unavailable || kind == errs.CircuitOpen", new: "return kind == errs.Unavailable || kind == errs.CircuitOpen || kind == errs.Uncertain",
		pkg: "store/spool", test: "TestWhatIsNotSpooled",
	}, {
		name: "drained_without_a_look", loses: "that a message is stored once, when the gateway is killed while it drains",
		file: "store/spool/drain.go",
		old:  "if d != nil {\n", new: "if d != nil && len(p.msgs) == 0 {\n",
		pkg: "store/spool", test: "TestKilledWhileDraining",
	}, {
		name: "refused_message_vanishes", loses: "a message that was answered 202 and is then refused for good",
		file: "store/spool/aside.go",
		old:  "_ = b.Set(numberKey(tagAside, id), v, nil)", new: "_ = v",
		pkg: "store/spool", test: "TestAside",
	}}
}

func kafkaBugs() []bug {
	return []bug{{
		name: "refusal_taken_for_success", loses: "messages that a broker refused, answered 201",
		file: "store/kafka/publish.go",
		old:  "\tif err == nil {\n\t\tsl.msg.Partition", new: "\tif err == nil || c.p.outcome(c.at, err) == errs.Unavailable {\n\t\tsl.msg.Partition",
		pkg: "store/kafka", test: "TestEveryCodeOnce",
	}, {
		name: "unknown_code_taken_for_refusal", loses: "that a message is stored once, when a broker answers something new",
		file: "store/kafka/errors.go",
		old:  "return errs.Uncertain", new: "return errs.Unavailable",
		pkg: "store/kafka", test: "TestUnnamedCodesAreUncertain",
	}, {
		name: "acks_beyond_the_position_not_committed", loses: "that what was acked does not come again when a partition changes hands",
		file: "store/kafka/commit.go",
		old:  "rp.Metadata = kmsg.StringPtr(positions[rp.Partition].Beyond)", new: "_ = rp",
		pkg: "store/kafka", test: "TestStoreOnFake/CommitSurvivesClose",
	}, {
		name: "former_owner_is_told_late", loses: "that what was acked does not come again after a rebalance",
		file: "store/kafka/rebalance.go",
		old:  "\tif clean {\n", new: "\tif clean && len(partitions) == 0 {\n",
		pkg: "store/kafka", test: "TestStoreOnFake/MembersMoveCleanly",
	}, {
		name: "circuit_opened_by_callers_who_left", loses: "a topic that works, for everybody, by one client who hangs up",
		file: "store/breaker/circuit.go",
		old:  "if errors.Is(ctx.Err(), context.Canceled) {\n\t\treturn neither", new: "if errors.Is(ctx.Err(), context.Canceled) && err == nil {\n\t\treturn neither",
		pkg: "store/breaker", test: "TestWhatDoesNotCount",
	}}
}
