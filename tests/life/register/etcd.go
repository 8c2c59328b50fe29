package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
)

// Members are the clients, one for each endpoint, and the one that answered last.
type Members struct {
	clients []*clientv3.Client
	all     *clientv3.Client
	current atomic.Int32
}

// digits: values are compared as text by etcd, so all have the same length.
const digits = 12

// patience: how long to wait, at the begin and at the end, for an answer that must come.
const patience = 2 * time.Minute

func text(value int64) string { return fmt.Sprintf("%0*d", digits, value) }

// dial makes the clients; each reads its certificate anew for each connection, for it may be renewed.
func dial(o *Options) (*Members, error) {
	urls := strings.Split(o.endpoints, ",")
	config := clientv3.Config{
		DialKeepAliveTime:    6 * time.Second, // etcd refuses less than 5 s
		DialKeepAliveTimeout: 2 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5,
				Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		})},
	}
	if o.ca != "" {
		trusted, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(trusted) {
			return nil, fmt.Errorf("%s: no certificate", o.ca)
		}
		config.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(o.cert, o.key)
				return &pair, err
			}}
	}
	members := &Members{}
	for _, url := range urls {
		config.Endpoints = []string{url}
		client, err := clientv3.New(config)
		if err != nil {
			return nil, err
		}
		client.ActiveConnection().Connect()
		members.clients = append(members.clients, client)
	}
	config.Endpoints = urls
	client, err := clientv3.New(config)
	members.all = client
	return members, err
}

// try asks the member that answered last. After a failure the next one that is connected is asked.
func (m *Members) try(request func(*clientv3.Client) error) error {
	index := m.current.Load()
	err := request(m.clients[index])
	if err != nil {
		count := int32(len(m.clients))
		next := (index + 1) % count
		for step := int32(1); step < count; step++ {
			one := (index + step) % count
			if m.clients[one].ActiveConnection().GetState() == connectivity.Ready {
				next = one
				break
			}
		}
		m.current.CompareAndSwap(index, next)
	}
	return err
}

// until repeats a request for as long as `patience`.
func (m *Members) until(request func(context.Context, *clientv3.Client) error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := m.try(func(client *clientv3.Client) error { return request(ctx, client) })
		cancel()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func loadEtcd(ctx context.Context, o *Options) error {
	members, err := dial(o)
	if err != nil {
		return err
	}
	top := "/" + o.name + "/"
	var begin int64
	for register := range o.registers {
		err := members.until(func(ctx context.Context, client *clientv3.Client) error {
			done, err := client.Put(ctx, top+"register/"+strconv.Itoa(register), text(0))
			if err == nil && begin == 0 {
				begin = done.Header.Revision
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("no write at the begin: %w", err)
		}
	}
	o.history.add(Record{Kind: "start", Verb: "etcd", Register: o.registers, Revision: begin})
	watch := &Watch{options: o, client: members.all, prefix: top + "register/", next: begin}
	watching, cancel := context.WithCancel(context.Background())
	var reader, writers sync.WaitGroup
	reader.Go(func() { watch.run(watching) })
	for register := range o.registers {
		writers.Go(func() { write(ctx, o, members, top, register) })
	}
	writers.Wait()
	err = final(o, members, top, watch)
	cancel()
	reader.Wait()
	return err
}

// write gives one register its values, one after another. The comparison keeps an attempt that comes
// late from setting the register back; the entry beside it shows each single write at the end.
func write(ctx context.Context, o *Options, members *Members, top string, register int) {
	key := top + "register/" + strconv.Itoa(register)
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for value := int64(1); ctx.Err() == nil; value++ {
		entry := fmt.Sprintf("%sentry/%d/%s", top, register, text(value))
		put := func(ctx context.Context, record *Record) error {
			return members.try(func(client *clientv3.Client) error {
				done, err := client.Txn(clientv3.WithRequireLeader(ctx)).
					If(clientv3.Compare(clientv3.Value(key), "<", text(value))).
					Then(clientv3.OpPut(key, text(value)), clientv3.OpPut(entry, "")).
					Else(clientv3.OpGet(key)).Commit()
				if err != nil {
					return err
				}
				record.Revision = done.Header.Revision
				if done.Succeeded {
					return nil
				}
				return already(record, done.Responses[0].GetResponseRange().Kvs, value)
			})
		}
		o.twice(Record{Kind: "ack", Register: register, Value: value}, put)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// already: the register is not below the value. After a lost answer it is exactly the value.
func already(record *Record, found []*mvccpb.KeyValue, wanted int64) error {
	if len(found) == 0 {
		return fmt.Errorf("the register is gone, before %d was written", wanted)
	}
	if string(found[0].Value) != text(wanted) {
		return fmt.Errorf("the register is %s, before %d was written", found[0].Value, wanted)
	}
	record.Revision = found[0].ModRevision
	return nil
}

// final reads all registers and entries, waits for the watch to come that far, and removes them.
func final(o *Options, members *Members, top string, watch *Watch) error {
	var revision int64
	err := members.until(func(ctx context.Context, client *clientv3.Client) error {
		done, err := client.Get(ctx, top+"register/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, pair := range done.Kvs {
			register, value := parse(string(pair.Key), string(pair.Value))
			o.history.add(Record{Kind: "final", Register: register, Value: value, Revision: pair.ModRevision})
			revision = max(revision, pair.ModRevision)
		}
		return nil
	})
	for register := 0; register < o.registers && err == nil; register++ {
		err = entries(o, members, fmt.Sprintf("%sentry/%d/", top, register), register)
	}
	if err != nil {
		return fmt.Errorf("no read at the end: %w", err)
	}
	for deadline := time.Now().Add(patience); watch.seen.Load() < revision; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("the watch did not come to the last revision")
		}
	}
	return members.until(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Delete(ctx, top, clientv3.WithPrefix())
		return err
	})
}

// entries records which writes of a register are there, a page at a time.
func entries(o *Options, members *Members, prefix string, register int) error {
	const page = 5000
	for from, more := prefix, true; more; {
		var values []int64
		err := members.until(func(ctx context.Context, client *clientv3.Client) error {
			done, err := client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)),
				clientv3.WithLimit(page), clientv3.WithKeysOnly())
			if err != nil {
				return err
			}
			for _, pair := range done.Kvs {
				value, _ := strconv.ParseInt(strings.TrimPrefix(string(pair.Key), prefix), 10, 64)
				values = append(values, value)
				from = string(pair.Key) + "\x00"
			}
			more = done.More
			return nil
		})
		if err != nil {
			return err
		}
		o.history.add(Record{Kind: "entries", Register: register, Values: values})
	}
	return nil
}

func parse(key, value string) (int, int64) {
	register, _ := strconv.Atoi(key[strings.LastIndex(key, "/")+1:])
	number, _ := strconv.ParseInt(value, 10, 64)
	return register, number
}
