// register writes increasing values to registers, in etcd or through the Kubernetes API, and records
// what it was told: the history that tests/life/history.py checks.
//
//	register etcd --endpoints https://10.0.0.1:2379,... --history FILE   until SIGTERM or SIGINT
//	register api --kubeconfig /etc/kubernetes/admin.conf --history FILE  until SIGTERM or SIGINT
//
// A request is tried at most twice. After the signal, it reads every register, records it, removes
// what it made, and ends the history with a record "end": a history without it proves nothing.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Record is one line of the history. Times are nanoseconds since 1970, from one monotonic clock.
type Record struct {
	Kind     string   `json:"kind"`
	Verb     string   `json:"verb,omitempty"`
	Register int      `json:"register"`
	Value    int64    `json:"value,omitempty"`
	Values   []int64  `json:"values,omitempty"`
	Revision int64    `json:"revision,omitempty"`
	Began    int64    `json:"began,omitempty"`
	Ended    int64    `json:"ended"`
	Attempts int      `json:"attempts,omitempty"`
	Errors   []string `json:"errors,omitempty"`
}

// History appends records to a file. A record is with the kernel before the next request starts, so
// a kill of this program loses none.
type History struct {
	mutex sync.Mutex
	file  *os.File
	start time.Time
}

func open(path string) (*History, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	return &History{file: file, start: time.Now()}, err
}

func (h *History) now() int64 { return h.start.UnixNano() + int64(time.Since(h.start)) }

func (h *History) add(record Record) {
	if record.Ended == 0 {
		record.Ended = h.now()
	}
	line, err := json.Marshal(record)
	if err == nil {
		h.mutex.Lock()
		_, err = h.file.Write(append(line, '\n'))
		h.mutex.Unlock()
	}
	if err != nil { // An acknowledged write that is not recorded would be forgotten: end at once.
		fmt.Fprintln(os.Stderr, "register: history:", err)
		os.Exit(1)
	}
}

// Options of both kinds of load.
type Options struct {
	history   *History
	registers int
	every     time.Duration
	attempt   time.Duration
	pause     time.Duration
	endpoints string
	ca        string
	cert      string
	key       string
	config    string
	name      string
}

// twice runs a request, and once more if it fails; false: both attempts failed.
func (o *Options) twice(record Record, request func(context.Context, *Record) error) bool {
	record.Began = o.history.now()
	kind := record.Kind
	for record.Attempts = 1; ; record.Attempts++ {
		ctx, cancel := context.WithTimeout(context.Background(), o.attempt)
		err := request(ctx, &record)
		cancel()
		if err == nil {
			record.Kind = kind
			o.history.add(record)
			return true
		}
		record.Errors = append(record.Errors, err.Error())
		if record.Attempts == 2 {
			record.Kind = "failed"
			o.history.add(record)
			return false
		}
		time.Sleep(o.pause)
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "register etcd|api [flags]")
		os.Exit(2)
	}
	options, path := Options{}, ""
	flags := flag.NewFlagSet("register", flag.ExitOnError)
	flags.StringVar(&path, "history", "", "file to make, with a JSON record on each line")
	flags.StringVar(&options.name, "name", "life", "prefix of what is made")
	flags.IntVar(&options.registers, "registers", 4, "etcd: number of registers, with a writer each")
	flags.DurationVar(&options.every, "every", 40*time.Millisecond, "time between two writes of a writer")
	flags.DurationVar(&options.attempt, "attempt", time.Second, "time that one attempt may take")
	flags.DurationVar(&options.pause, "pause", 0, "time before the second attempt")
	flags.StringVar(&options.endpoints, "endpoints", "", "etcd: URLs, separated by commas")
	flags.StringVar(&options.ca, "ca", "", "etcd: file of the servers' CA")
	flags.StringVar(&options.cert, "cert", "", "etcd: file of the client's certificate")
	flags.StringVar(&options.key, "key", "", "etcd: file of the client's key")
	flags.StringVar(&options.config, "kubeconfig", "", "api: file of kubectl's configuration")
	_ = flags.Parse(os.Args[2:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	history, err := open(path)
	if err == nil {
		options.history = history
		switch os.Args[1] {
		case "etcd":
			err = loadEtcd(ctx, &options)
		case "api":
			err = loadAPI(ctx, &options)
		default:
			err = fmt.Errorf("%s: neither etcd nor api", os.Args[1])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "register:", err)
		os.Exit(1)
	}
	history.add(Record{Kind: "end"})
}
