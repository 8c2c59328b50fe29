package main

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watch records every change of the registers. It is opened anew after the last revision that it saw;
// where that is compacted, it records so, and reads all registers, as a controller has to.
type Watch struct {
	options *Options
	client  *clientv3.Client
	prefix  string
	next    int64
	seen    atomic.Int64
}

func (w *Watch) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.once(ctx)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (w *Watch) once(ctx context.Context) {
	inner, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for answer := range w.client.Watch(inner, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.next)) {
		if answer.CompactRevision != 0 {
			w.options.history.add(Record{Kind: "compacted", Revision: answer.CompactRevision})
			w.list(ctx)
			return
		}
		if err := answer.Err(); err != nil {
			w.options.history.add(Record{Kind: "reopened", Errors: []string{err.Error()}})
			return
		}
		for _, event := range answer.Events {
			if event.Type == clientv3.EventTypePut {
				register, value := parse(string(event.Kv.Key), string(event.Kv.Value))
				w.options.history.add(Record{Kind: "seen", Register: register, Value: value,
					Revision: event.Kv.ModRevision})
			}
		}
		if count := len(answer.Events); count > 0 {
			w.reached(answer.Events[count-1].Kv.ModRevision)
		}
	}
}

func (w *Watch) list(ctx context.Context) {
	inner, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := w.client.Get(inner, w.prefix, clientv3.WithPrefix())
	if err != nil { // The next watch says again that the revision is compacted.
		return
	}
	for _, pair := range answer.Kvs {
		register, value := parse(string(pair.Key), string(pair.Value))
		w.options.history.add(Record{Kind: "listed", Register: register, Value: value, Revision: pair.ModRevision})
	}
	w.reached(answer.Header.Revision)
}

func (w *Watch) reached(revision int64) {
	w.next = revision + 1
	w.seen.Store(revision)
}
