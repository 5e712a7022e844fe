package bugs

// pubBugs are of what publishers are told.
func pubBugs() []bug {
	return []bug{{
		name: "broken_body_stored", loses: "the end of a message whose publisher broke off, and who is told that it is stored",
		file: "pub/body.go",
		old:  "case err == io.EOF:\n\t\t\treturn body, nil", new: "case err != nil:\n\t\t\treturn body, nil",
		pkg: "pub", test: "TestBrokenChunksStoreNothing",
	}, {
		name: "body_limit_off_by_one", loses: "messages of exactly the size that is documented",
		file: "pub/body.go",
		old:  "case n > int64(limit):", new: "case n >= int64(limit):",
		pkg: "pub", test: "TestSizesAtTheirEdge",
	}, {
		name: "decoded_body_without_limit", loses: "the process's memory, by a small body that unpacks to a large one",
		file: "pub/body.go",
		old:  "return h.readAll(z, max(4*int(r.ContentLength), 1024), limit)", new: "return h.readAll(z, max(4*int(r.ContentLength), 1024), 1<<30)",
		pkg: "pub", test: "TestBombs",
	}, {
		name: "hang_up_ends_the_publish", loses: "publishes of others in the same batch, by one client who hangs up",
		file: "pub/publish.go",
		old:  "context.WithTimeout(context.WithoutCancel(r.Context()), h.limits.Deadline)", new: "context.WithTimeout(r.Context(), h.limits.Deadline)",
		pkg: "pub", test: "TestClientHangsUp",
	}, {
		name: "bytes_in_doubt_used_again", loses: "what a message says: another's bytes are stored in its place",
		file: "pub/publish.go",
		old:  "if !uncertain(err) {\n\t\th.release(c)", new: "if q != nil {\n\t\th.release(c)",
		pkg: "pub", test: "TestUncertainBytesAreNotUsedAgain",
	}, {
		name: "part_of_a_batch_told_as_all", loses: "the messages of a batch that failed beside others: 201 for all",
		file: "pub/answer.go",
		old:  "status = http.StatusMultiStatus", new: "status = http.StatusCreated",
		pkg: "pub", test: "TestBatchPartlyStored",
	}, {
		name: "inflated_frame_without_limit", loses: "the process's memory, by a deflated message on a WebSocket",
		file: "internal/ws/deflate.go",
		old:  "\tsrc = append(src, inflateTail...)\n", new: "\tsrc, limit = append(src, inflateTail...), 1<<30\n",
		pkg: "internal/ws", test: "TestDeflateBomb",
	}, {
		name: "two_lengths_accepted", loses: "a proxy's idea of where a request ends: requests are smuggled past it",
		file: "internal/edge/scanner.go",
		old:  "case s.chunked && s.hasLength:\n\t\treturn faultBoth\n", new: "",
		pkg: "internal/edge", test: "TestScanner",
	}, {
		name: "half_an_answer_ended_well", loses: "the end of an answer that broke off: the client takes it for whole",
		file: "internal/httpx/httpx.go",
		old:  "panic(http.ErrAbortHandler) // half an answer is out: cut the connection", new: "return",
		pkg: "internal/httpx", test: "TestErrorAfterTheFirstWriteCutsTheConnection",
	}}
}

// subBugs are of what subscribers get.
func subBugs() []bug {
	return []bug{{
		name: "raw_header", loses: "every message behind one whose key has a NUL: clients refuse the answer",
		file: "internal/wire/response.go",
		old:  "s.header[name] = append(s.header[name], percentEncode(value))", new: "s.header[name] = append(s.header[name], string(value))",
		pkg: "sub", test: "TestEveryByteSurvivesARawPoll",
	}, {
		name: "receipts_of_other_groups_accepted", loses: "a group's messages: another group acks them",
		file: "group/receipt.go",
		old:  "key.Topic, key.Group)", new: "key.Topic, \"\")",
		pkg: "sub", test: "TestReceiptsBelongToTheirGroup",
	}, {
		name: "acked_before_it_is_written", loses: "what was in an answer that could not be written",
		file: "sub/poll.go",
		old:  "\terr := ctx.Err()\n\tif err == nil {\n\t\terr = a.write(batch)",
		new:  "\terr := ctx.Err()\n\tif err == nil {\n\t\ta.session.Settle(verbsFor(batch, group.Ack)...)\n\t\terr = a.write(batch)",
		pkg:  "sub", test: "TestWhatCouldNotBeWrittenIsDueAtOnce",
	}, {
		name: "group_of_another_app", loses: "another app's place in its topic: whoever names its group moves it on",
		file: "sub/sub.go",
		old:  "g := meta.Group{Subscriber: p.app, ", new: "g := meta.Group{Subscriber: p.topic.App, ",
		pkg: "sub", test: "TestTheGroupIsTheCallers",
	}, {
		name: "cursor_not_verified", loses: "the start of a topic that a cut or foreign cursor passes over",
		file: "broadcast/cursor.go",
		old:  "if sum != checksum(checksum(sumSeed, []byte(topic)), b) || b[0] != ofAll && b[0] != ofSome {", new: "if sum == 0 || b[0] != ofAll && b[0] != ofSome {",
		pkg: "broadcast", test: "TestCursorIsStrict",
	}, {
		name: "message_lost_at_the_seam", loses: "a message between what a reader catches up with and what comes live",
		file: "broadcast/reader.go",
		old:  "seen := it.Offset < r.at.at(p)\n", new: "seen := it.Offset < r.at.at(p)+int64(len(r.ahead))\n",
		pkg: "broadcast", test: "TestSeams",
	}}
}
