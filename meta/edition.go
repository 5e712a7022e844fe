package meta

// edition is a snapshot in the making: a changed copy that shares everything else with the one before.
type edition struct {
	from    *Snapshot
	objects map[Kind]*edit[string, object] // of the kinds that were touched
	renamed map[Kind]bool                  // whose names are others now
	gone    []Topic                        // topics that are no longer registered, or made anew

	topics *topicEdit
	grants edit[grant, *Subscription]
	keys   edit[string, appKey]

	schemas edit[Topic, []*Schema]

	topicsOf, appsIn, topicsIn tally
}

func (s *Snapshot) edition() *edition {
	return &edition{
		from: s, objects: map[Kind]*edit[string, object]{}, renamed: map[Kind]bool{},
		topics: s.topics.edit(), grants: s.grants.edit(), keys: s.keys.edit(), schemas: s.schemas.edit(),
		topicsOf: tally{s.topicsOf.edit()}, appsIn: tally{s.appsIn.edit()}, topicsIn: tally{s.topicsIn.edit()},
	}
}

// of is the kind's objects as they stand.
func (e *edition) of(kind Kind) *sharded[string, object] {
	if ed := e.objects[kind]; ed != nil {
		return &ed.sharded
	}
	if t := e.from.objects[kind]; t != nil {
		return &t.sharded
	}
	return new(sharded[string, object]) // a kind that there is not
}

func (e *edition) touch(kind Kind) *edit[string, object] {
	ed := e.objects[kind]
	if ed == nil {
		fresh := e.from.objects[kind].edit()
		ed = &fresh
		e.objects[kind] = ed
	}
	return ed
}

// set puts a record in, in place of what has its name.
func (e *edition) set(o object) {
	id := o.record.ID()
	was, ok := e.of(id.Kind).get(id.Name)
	e.touch(id.Kind).set(id.Name, o)
	if !ok {
		e.renamed[id.Kind] = true
		e.link(o.record)
		return
	}
	e.anew(was.record, o.record)
	e.relink(was.record, o.record)
}

// remove takes an object out. Without it nothing happens.
func (e *edition) remove(id ID) {
	was, ok := e.of(id.Kind).get(id.Name)
	if !ok {
		return
	}
	e.unlink(was.record)
	e.touch(id.Kind).remove(id.Name)
	e.renamed[id.Kind] = true
	if t, ok := was.record.(*TopicRecord); ok {
		e.gone = append(e.gone, t.Topic())
	}
}

// anew notes a topic that was deleted and registered again before we heard of it.
func (e *edition) anew(was, is Record) {
	before, _ := was.(*TopicRecord)
	after, _ := is.(*TopicRecord)
	if before != nil && after != nil && (before.Place() != after.Place() || !before.Created.Equal(after.Created)) {
		e.gone = append(e.gone, before.Topic())
	}
}

// link enters a record into what it is looked up by besides its name.
func (e *edition) link(r Record) {
	switch r := r.(type) {
	case *App:
		e.appsIn.add(clusterName(r.Cluster), 1)
		for i := range r.Keys {
			e.keys.set(r.Keys[i].KeyID, appKey{r, &r.Keys[i]})
		}
	case *TopicRecord:
		e.topics.set(r)
		e.topicsOf.add(r.App, 1)
		e.topicsIn.add(clusterName(r.Cluster), 1)
	case *Subscription:
		e.grants.set(grant{r.Topic(), r.Subscriber}, r)
	case *Schema:
		e.linkSchema(r)
	}
}

func (e *edition) unlink(r Record) {
	switch r := r.(type) {
	case *App:
		e.appsIn.add(clusterName(r.Cluster), -1)
		for i := range r.Keys {
			if k, _ := e.keys.get(r.Keys[i].KeyID); k.app == r { // unless another app has shown the same id since
				e.keys.remove(r.Keys[i].KeyID)
			}
		}
	case *TopicRecord:
		e.topics.remove(r.Topic())
		e.topicsOf.add(r.App, -1)
		e.topicsIn.add(clusterName(r.Cluster), -1)
	case *Subscription:
		e.grants.remove(grant{r.Topic(), r.Subscriber})
	case *Schema:
		e.unlinkSchema(r)
	}
}

// relink is unlink and link. A topic that stays where it is changes in one place only: it is what bulk edits are made of.
func (e *edition) relink(was, is Record) {
	before, _ := was.(*TopicRecord)
	after, _ := is.(*TopicRecord)
	if before != nil && after != nil && clusterName(before.Cluster) == clusterName(after.Cluster) {
		e.topics.set(after)
		return
	}
	e.unlink(was)
	e.link(is)
}

// changed reports whether there is anything new in it.
func (e *edition) changed() bool { return len(e.objects) > 0 }

// done is the snapshot. The edition must not be used after it.
func (e *edition) done(stale bool) *Snapshot {
	s := &Snapshot{
		objects: map[Kind]*table{},
		topics:  e.topics.topicTable, grants: e.grants.done(), keys: e.keys.done(), schemas: e.schemas.done(),
		topicsOf: e.topicsOf.done(), appsIn: e.appsIn.done(), topicsIn: e.topicsIn.done(),
		revision: e.from.revision + 1, stale: stale,
	}
	for kind, t := range e.from.objects {
		ed := e.objects[kind]
		if ed == nil {
			s.objects[kind] = t
			continue
		}
		s.objects[kind] = &table{sharded: ed.done()}
		if !e.renamed[kind] {
			s.objects[kind].sorted.Store(t.sorted.Load())
		}
	}
	return s
}
