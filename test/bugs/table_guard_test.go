package bugs

import "slices"

// guardBugs are of who may do what, and how much of it.
func guardBugs() []bug { return slices.Concat(authBugs(), limitBugs(), managerBugs()) }

func authBugs() []bug {
	return []bug{{
		name: "publish_to_any_topic", loses: "a topic to which any app publishes",
		file: "plugins/auth/auth.go",
		old:  "case c.Op == plugins.Publish && t.App != c.App:", new: "case c.Op == plugins.Publish && t.App == \"\":",
		pkg: "plugins/auth", test: "TestRights",
	}, {
		name: "read_without_a_grant", loses: "a tenant's messages to any other",
		file: "plugins/auth/auth.go",
		old:  "case c.Op != plugins.Publish && !snap.MayRead(c.App, c.Group, t):", new: "case c.Op != plugins.Publish && !snap.MayRead(t.App, c.Group, t):",
		pkg: "gateway", test: "TestTenantsSeeNothingOfEachOther",
	}, {
		name: "revoked_key_counts", loses: "that a key which is revoked ends what is open with it",
		file: "plugins/auth/auth.go",
		old:  "if key == nil || app.Name != who.app || who.hash != \"\" && who.hash != key.Hash {\n\t\treturn unknown\n\t}", new: "if key == nil || app.Name != who.app {\n\t\treturn passed\n\t}",
		pkg: "plugins/auth", test: "TestStreamsEnd",
	}, {
		name: "algorithm_of_a_token_not_checked", loses: "every app to whoever has an issuer's public key",
		file: "plugins/auth/tokens.go",
		old:  "if !slices.Contains(is.Algorithms, alg) {", new: "if !slices.Contains(append(public(), shared()...), alg) {",
		pkg: "plugins/auth", test: "TestEveryTokenWithEveryFault",
	}, {
		name: "token_outlives_its_end", loses: "that a token ends: one that was good once is good for a day more",
		file: "plugins/auth/tokens.go",
		old:  "found.expires, found.leeway = exp.Time, is.leeway", new: "found.expires, found.leeway = exp.Add(24*time.Hour), is.leeway",
		pkg: "plugins/auth", test: "TestTokenEnds",
	}, {
		name: "audience_of_a_token_not_checked", loses: "an app to whoever gets a token of it for another service",
		file: "plugins/auth/tokens.go",
		old:  "jwt.WithAudience(o.Audience...), ", new: "",
		pkg: "plugins/auth", test: "TestEveryTokenWithEveryFault",
	}, {
		name: "plugin_that_hangs_lets_messages_through", loses: "every check of messages, to whoever makes a plugin hang",
		file: "plugins/contain.go",
		old:  "\tcase <-t.C:\n\t\tb.abandon(done)\n\t\treturn b.hung()", new: "\tcase <-t.C:\n\t\tb.abandon(done)\n\t\t_ = b.hung()\n\t\treturn nil",
		pkg: "plugins", test: "TestQuestionsAboutMessagesThatFail",
	}, {
		name: "service_that_fails_lets_in", loses: "everything, for as long as the service that decides gives no answer",
		file: "plugins/callout/callout.go",
		old:  "if p.opts.OnFailure == \"allow\" && ctx.Err() == nil {", new: "if ctx.Err() == nil {",
		pkg: "plugins/callout", test: "TestServiceThatFails",
	}, {
		name: "claimed_app_believed", loses: "every app to whoever names it, where authentication says nothing",
		file: "plugins/gate.go",
		old:  "\tif g.identifies {\n\t\tc.App = \"\"\n\t}\n", new: "",
		pkg: "plugins", test: "TestWhoCalls",
	}, {
		name: "handshake_of_peers_not_verified", loses: "the cluster, to whoever reaches a gateway's port for peers",
		file: "peer/handshake.go",
		old:  "if found < 0 {\n\t\treturn errWrongMAC\n\t}", new: "if found < 0 {\n\t\tfound = 0\n\t}",
		pkg: "peer", test: "TestHandshake",
	}, {
		name: "handshake_of_peers_reflected", loses: "the cluster's secret as what lets in: a gateway's own proof is sent back to it",
		file: "peer/handshake.go",
		old:  "labelServer = \"kateway peer server\\n\"", new: "labelServer = labelClient",
		pkg: "peer", test: "TestReflection",
	}}
}

func limitBugs() []bug {
	return []bug{{
		name: "address_of_anybody_believed", loses: "every limit by address: a client says whose it is",
		file: "internal/edge/proxies.go",
		old:  "if err != nil || !p.Trusts(peer.Addr()) {", new: "if err != nil || p == nil {",
		pkg: "internal/edge", test: "TestForwarded",
	}, {
		name: "quota_charged_half", loses: "a quota: twice of it is let in",
		file: "plugins/quota/meter.go",
		old:  "\tm.add(n, -1)\n\treturn refusal{}", new: "\tm.add(n, -0.5)\n\treturn refusal{}",
		pkg: "plugins/quota", test: "TestRates",
	}, {
		name: "refused_batch_charged", loses: "an app's quota, for what was refused by another limit",
		file: "plugins/quota/quota.go",
		old:  "\t\t\tfor _, m := range t.held[:i] {", new: "\t\t\tfor _, m := range t.held[:min(i, 0)] {",
		pkg: "plugins/quota", test: "TestRefusedIsNotCharged",
	}, {
		name: "loopback_is_left_out", loses: "all clients behind a proxy on the same machine, by one of them",
		file: "plugins/guard/confine.go",
		old:  " || isLoopback(c.Remote) {", new: " {",
		pkg: "plugins/guard", test: "TestApp",
	}, {
		name: "guesses_made_up_for", loses: "that who guesses at keys is left out: sound requests between hide him",
		file: "plugins/guard/confine.go",
		old:  "\tcase guess:\n\t\te.guesses++\n", new: "",
		pkg: "plugins/guard", test: "TestSoundRequestsMakeUp",
	}, {
		name: "turn_kept_by_a_panic", loses: "publishing, after a few panics, until the next restart",
		file: "plugins/guard/guard.go",
		old:  "\t\tdefer p.end(c)\n\t\treturn p.judge(c, next(ctx, c))", new: "\t\terr := next(ctx, c)\n\t\tp.end(c)\n\t\treturn p.judge(c, err)",
		pkg: "plugins/guard", test: "TestPanicGivesBack",
	}, {
		name: "secret_in_the_access_log", loses: "tokens of browsers and keys of messages, to whoever reads the log",
		file: "gateway/accesslog.go",
		old:  "text(\"path\", r.URL.EscapedPath())", new: "text(\"path\", r.URL.RequestURI())",
		pkg: "gateway", test: "TestAccessLog",
	}}
}

func managerBugs() []bug {
	return []bug{{
		name: "viewer_changes", loses: "the cluster, to whoever may only look at it",
		file: "manager/auth.go",
		old:  "if err == nil && who.role < need {", new: "if err == nil && who.role == 0 {",
		pkg: "manager", test: "TestRoles",
	}, {
		name: "seek_by_halves", loses: "a group's positions: a gateway that could not be reached commits over the seek",
		file: "manager/offsets.go",
		old:  "if s := h.suspend(c.ctx, g.key); len(s) > 0 {", new: "if s := h.suspend(c.ctx, g.key); len(s) > 1 {",
		pkg: "manager", test: "TestNothingMovesWhileAGatewayIsSilent",
	}}
}
