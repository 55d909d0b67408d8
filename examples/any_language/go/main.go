// A client of `onelock hold --json` for Go's standard library on Linux, to copy.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// ErrHeld says that another client holds the lock.
var ErrHeld = errors.New("held by another client")

// ErrLost says that the lock is no longer held: stop the work.
var ErrLost = errors.New("lost")

// Guard is a held lock.
type Guard struct {
	Number, Token uint64
	// Lost is closed when the lock is lost.
	Lost   chan struct{}
	client *Client
	boot   *int64
	wall   *time.Time
	reason string
}

// Client is a process `onelock hold --json`, and the locks that it holds. Goroutines may share it.
type Client struct {
	mutex   sync.Mutex
	input   io.WriteCloser
	last    uint64
	replies map[uint64]chan message
	guards  map[uint64]*Guard
	ended   bool
}

type validity struct {
	ValidUntil *int64     `json:"valid_until"`
	ExpiresAt  *time.Time `json:"expires_at"`
}

type message struct {
	validity
	ID    uint64 `json:"id"`
	Event string `json:"event"`
	Guard uint64 `json:"guard"`
	Cause string `json:"reason"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
	Ok struct {
		validity
		Held   bool   `json:"held"`
		Guard  uint64 `json:"guard"`
		Token  uint64 `json:"token"`
		Holder struct {
			Owner string `json:"owner"`
		} `json:"holder"`
	} `json:"ok"`
	guard *Guard
}

// Start starts onelock with further options, such as "--url" and the store.
func Start(options ...string) (*Client, error) {
	command := exec.Command("onelock", append([]string{"hold", "--json"}, options...)...)
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	messages := json.NewDecoder(output)
	var hello message
	if err := messages.Decode(&hello); err != nil {
		return nil, errors.New("onelock did not start")
	}
	if hello.Error != nil {
		return nil, errors.New(hello.Error.Message)
	}
	client := &Client{input: input, replies: map[uint64]chan message{}, guards: map[uint64]*Guard{}}
	go func() {
		client.read(messages)
		_ = command.Wait()
	}()
	return client, nil
}

func (c *Client) read(messages *json.Decoder) {
	for {
		var m message
		if messages.Decode(&m) != nil {
			break
		}
		c.mutex.Lock()
		guard := c.guards[m.Guard]
		switch {
		case m.Event == "renewed" && guard != nil:
			guard.boot, guard.wall = m.ValidUntil, m.ExpiresAt
		case m.Event == "lost" && guard != nil:
			guard.lose(m.Cause)
		case m.Event == "":
			if m.Ok.Held && m.Ok.Guard != 0 {
				// Here, because the next line may be about this guard already.
				m.guard = &Guard{Number: m.Ok.Guard, Token: m.Ok.Token, Lost: make(chan struct{}), client: c,
					boot: m.Ok.ValidUntil, wall: m.Ok.ExpiresAt}
				c.guards[m.Ok.Guard] = m.guard
			}
			if reply := c.replies[m.ID]; reply != nil {
				delete(c.replies, m.ID)
				reply <- m
			}
		}
		c.mutex.Unlock()
	}
	// Whatever ended onelock, it holds no lock any more.
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.ended = true
	for _, guard := range c.guards {
		guard.lose("onelock ended")
	}
	for _, reply := range c.replies {
		close(reply)
	}
}

func (c *Client) ask(request map[string]any) (message, error) {
	m, open := <-c.send(request)
	if !open {
		return m, errors.New("onelock ended")
	}
	if m.Error != nil {
		return m, errors.New(m.Error.Message)
	}
	return m, nil
}

func (c *Client) send(request map[string]any) chan message {
	reply := make(chan message, 1)
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.ended {
		close(reply)
		return reply
	}
	c.last++
	request["id"] = c.last
	c.replies[c.last] = reply
	// A failed write shows as the end of the output.
	_ = json.NewEncoder(c.input).Encode(request)
	return reply
}

// Acquire waits at most so many seconds: 0 tries once, nil waits for as long as it takes.
func (c *Client) Acquire(name string, wait any) (*Guard, error) {
	m, err := c.ask(map[string]any{"op": "acquire", "name": name, "wait": wait})
	if err != nil {
		return nil, err
	}
	if !m.Ok.Held {
		return nil, fmt.Errorf("%w: %s", ErrHeld, m.Ok.Holder.Owner)
	}
	return m.guard, nil
}

// Check returns ErrLost unless the lock is held. It reads two clocks only: call it before each step.
func (g *Guard) Check() error {
	g.client.mutex.Lock()
	defer g.client.mutex.Unlock()
	// A stopped `onelock hold` says nothing, and a paused machine is seen by its wall clock alone.
	if g.boot != nil && bootTime() >= *g.boot || g.wall != nil && !time.Now().Round(0).Before(*g.wall) {
		g.lose("expired")
	}
	if g.reason != "" {
		return fmt.Errorf("%w: %s", ErrLost, g.reason)
	}
	return nil
}

func (g *Guard) lose(reason string) {
	if g.reason == "" {
		g.reason = reason
		close(g.Lost)
	}
}

// Release releases the lock. It returns ErrLost if the lock was lost before.
func (g *Guard) Release() error {
	release := map[string]any{"op": "release", "guard": g.Number}
	if lost := g.Check(); lost != nil {
		// A stopped onelock would not answer.
		g.client.send(release)
		return lost
	}
	_, err := g.client.ask(release)
	g.client.mutex.Lock()
	delete(g.client.guards, g.Number)
	g.client.mutex.Unlock()
	return err
}

// bootTime reads CLOCK_BOOTTIME, which Go's own clock is not.
func bootTime() int64 {
	const clockBoottime = 7
	var at syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&at)), 0)
	return at.Nano()
}

func work() error {
	client, err := Start(os.Args[1:]...)
	if err != nil {
		return err
	}
	guard, err := client.Acquire("nightly-etl", 0)
	if err != nil {
		return err
	}
	fmt.Printf("held nightly-etl token=%d\n", guard.Token)
	steps := bufio.NewScanner(os.Stdin)
	for steps.Scan() {
		if guard.Check() != nil {
			return guard.Release()
		}
		fmt.Printf("step %s\n", steps.Text())
	}
	if err := guard.Release(); err != nil {
		return err
	}
	fmt.Println("released")
	return nil
}

func main() {
	err := work()
	switch {
	case errors.Is(err, ErrHeld):
		fmt.Printf("skipped: %v\n", err)
		os.Exit(1)
	case errors.Is(err, ErrLost):
		fmt.Println(err)
		os.Exit(75)
	case err != nil:
		fmt.Println(err)
		os.Exit(70)
	}
}
