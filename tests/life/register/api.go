package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// perObject: so many writes go to one ConfigMap; then the next one is created.
const perObject = 20

// Server is the Kubernetes API at the address of a kubeconfig.
type Server struct {
	path   string
	url    string
	client *http.Client
}

// ConfigMap is what is read and written of one: the API server fills in the rest.
type ConfigMap struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   Metadata          `json:"metadata"`
	Data       map[string]string `json:"data"`
}

// Metadata of an object.
type Metadata struct {
	Name            string `json:"name"`
	Namespace       string `json:"namespace"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// Answer of the API with another status than wanted.
type Answer struct {
	status int
	text   string
}

func (a *Answer) Error() string { return fmt.Sprintf("status %d: %.120s", a.status, a.text) }

// connect reads the kubeconfig anew: certificates in it may have been renewed.
func (s *Server) connect() error {
	found, err := os.ReadFile(s.path)
	if err != nil {
		return err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(found)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			values[name] = strings.Trim(value, `"`)
		}
	}
	var parts [3][]byte
	for index, name := range []string{"certificate-authority-data", "client-certificate-data", "client-key-data"} {
		if parts[index], err = base64.StdEncoding.DecodeString(values[name]); err != nil {
			return fmt.Errorf("%s: %s: %w", s.path, name, err)
		}
	}
	pair, err := tls.X509KeyPair(parts[1], parts[2])
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(parts[0]) {
		return fmt.Errorf("%s: no certificate of an authority", s.path)
	}
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s.url = values["server"]
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	return nil
}

// ask sends a request. A failed connection is not used again.
func (s *Server) ask(ctx context.Context, verb, name string, sent *ConfigMap) (*ConfigMap, error) {
	body, err := []byte(nil), error(nil)
	if sent != nil {
		body, err = json.Marshal(sent)
	}
	url := s.url + "/api/v1/namespaces/default/configmaps"
	if name != "" {
		url += "/" + name
	}
	request, err := errorOr(err, func() (*http.Request, error) {
		return http.NewRequestWithContext(ctx, verb, url, bytes.NewReader(body))
	})
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := s.client.Do(request)
	if err != nil {
		return nil, errors.Join(err, s.connect())
	}
	defer answer.Body.Close()
	found, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, errors.Join(err, s.connect())
	}
	if answer.StatusCode/100 != 2 {
		said := &Answer{answer.StatusCode, string(found)}
		if said.status == http.StatusUnauthorized {
			return nil, errors.Join(said, s.connect())
		}
		return nil, said
	}
	made := &ConfigMap{}
	return made, json.Unmarshal(found, made)
}

func errorOr[T any](err error, next func() (T, error)) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return next()
}

func is(err error, status int) bool {
	var said *Answer
	return errors.As(err, &said) && said.status == status
}

// Object is the ConfigMap that is written: a register of the history.
type Object struct {
	register int
	name     string
	version  string
	made     bool
}

func loadAPI(ctx context.Context, o *Options) error {
	server := &Server{path: o.config}
	if err := server.connect(); err != nil {
		return err
	}
	o.history.add(Record{Kind: "start", Verb: "api"})
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	var object *Object
	count := 0
	for value := int64(1); ctx.Err() == nil; value++ {
		if value%perObject == 1 {
			object = &Object{register: count, name: o.name + "-" + strconv.Itoa(count)}
			count++
		}
		object.round(o, server, value)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	for register := range count {
		if err := finish(o, server, register); err != nil {
			return err
		}
	}
	return nil
}

// round writes one value, after it has read the one before.
func (object *Object) round(o *Options, server *Server, value int64) {
	if object.made {
		read := Record{Kind: "read", Verb: "get", Register: object.register}
		if !o.twice(read, func(ctx context.Context, record *Record) error {
			return object.read(ctx, server, record)
		}) {
			return
		}
	}
	write := Record{Kind: "ack", Verb: "create", Register: object.register, Value: value}
	if object.made {
		write.Verb = "update"
	}
	o.twice(write, func(ctx context.Context, record *Record) error {
		return object.write(ctx, server, record)
	})
}

func (object *Object) read(ctx context.Context, server *Server, record *Record) error {
	found, err := server.ask(ctx, http.MethodGet, object.name, nil)
	if err != nil {
		return err
	}
	object.version = found.Metadata.ResourceVersion
	record.Value, record.Revision = found.numbers()
	return nil
}

// write creates or updates. A conflict after a lost answer means that the value is there.
func (object *Object) write(ctx context.Context, server *Server, record *Record) error {
	sent := &ConfigMap{APIVersion: "v1", Kind: "ConfigMap",
		Metadata: Metadata{Name: object.name, Namespace: "default", ResourceVersion: object.version},
		Data:     map[string]string{"value": strconv.FormatInt(record.Value, 10)}}
	verb, name := http.MethodPost, ""
	if object.made {
		verb, name = http.MethodPut, object.name
	}
	done, err := server.ask(ctx, verb, name, sent)
	if is(err, http.StatusConflict) {
		done, err = server.ask(ctx, http.MethodGet, object.name, nil)
		if err == nil {
			object.made, object.version = true, done.Metadata.ResourceVersion
			if value, _ := done.numbers(); value != record.Value {
				return fmt.Errorf("conflict: the value is %d, before %d was written", value, record.Value)
			}
		}
	}
	if err != nil {
		return err
	}
	object.made, object.version = true, done.Metadata.ResourceVersion
	_, record.Revision = done.numbers()
	return nil
}

func (c *ConfigMap) numbers() (int64, int64) {
	value, _ := strconv.ParseInt(c.Data["value"], 10, 64)
	revision, _ := strconv.ParseInt(c.Metadata.ResourceVersion, 10, 64)
	return value, revision
}

// finish reads an object at the end, and removes it. One that is gone has no "final" record.
func finish(o *Options, server *Server, register int) error {
	name := o.name + "-" + strconv.Itoa(register)
	var last *ConfigMap
	for deadline := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), o.attempt)
		found, err := server.ask(ctx, http.MethodGet, name, nil)
		if err == nil {
			last = found
			_, err = server.ask(ctx, http.MethodDelete, name, nil)
		}
		cancel()
		if err == nil || is(err, http.StatusNotFound) {
			if last != nil {
				value, revision := last.numbers()
				o.history.add(Record{Kind: "final", Register: register, Value: value, Revision: revision})
			}
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no read at the end: %w", err)
		}
	}
}
