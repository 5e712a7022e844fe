package ws

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
)

// Conn is a WebSocket, from its handshake to its end. Write may be called concurrently with itself and with Next.
type Conn struct {
	conn    net.Conn
	online  *online.Conn
	cfg     Config
	deflate bool

	// The reader's.
	in      *bufio.Reader // lent while something comes; nil: none
	lively  bool          // a message has come since it was lent: more may follow soon
	pausing bool          // what is waited for may be long in coming, and in given back meanwhile
	first   [16]byte      // what ends a wait without a buffer
	early   []byte        // of first, or of what came with the handshake: what is not read yet
	replies []byte        // to control frames, sent before the reader waits
	limit   time.Time     // by when the message that has begun must be whole
	renewed time.Time     // when the read deadline was set
	short   bool          // it is that of a pause
	waitErr error         // how a wait without a buffer has ended
	readErr error

	deadlines sync.Mutex // guards stopAt and the setting of read deadlines
	stopAt    time.Time  // reading ends then, whatever comes; zero: it goes on

	mu       sync.Mutex  // of who writes
	deadline time.Time   // for writes
	ended    bool        // a close frame or an error was the last that was written
	pinger   *time.Timer // nil before Serve
}

// End makes a frame of what was appended since [Begin] was given dst[:at]. It may be called concurrently.
func (c *Conn) End(dst []byte, at int, kind Kind) []byte {
	first := finBit | byte(kind)
	if c.Deflates(len(dst) - at - headRoom) {
		var small bool
		if dst, small = deflate(dst, at+headRoom); small {
			first |= rsv1Bit
		}
	}
	return finish(dst, at, first)
}

// Deflates reports whether End deflates a payload of so many bytes, or tries to. All connections deflate alike, so that a frame
// may be made once for several of those that do.
func (c *Conn) Deflates(n int) bool { return c.deflate && n >= minDeflate }

// errEnded is what a Write gets after the end.
var errEnded = &CloseError{Code: abnormal, Err: net.ErrClosed}

// Write sends whole frames, and returns when the connection has taken all of them. A client that takes nothing for 30 s
// is cut off. The error is a *CloseError and the end: nothing is sent any more.
func (c *Conn) Write(frames []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(frames, writeTimeout)
}

// write is Write for who has the lock.
func (c *Conn) write(b []byte, within time.Duration) error {
	if c.ended {
		return errEnded
	}
	if now := time.Now(); c.deadline.Sub(now) < renewAt || within < writeTimeout {
		c.deadline = now.Add(within)
		if err := c.conn.SetWriteDeadline(c.deadline); err != nil {
			return c.broken(err)
		}
	}
	if _, err := c.conn.Write(b); err != nil {
		return c.broken(err)
	}
	return nil
}

// broken cuts a connection of which nobody knows any more how much of a frame the client has. The reader sees it.
func (c *Conn) broken(err error) error {
	c.ended = true
	_ = c.conn.Close()
	return &CloseError{Code: abnormal, Err: err}
}

// ping asks the client for a sign of life, and does so again later. It runs on the timer's goroutine.
func (c *Conn) ping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.write([]byte{finBit | opPing, 0}, writeTimeout) == nil {
		c.pinger.Reset(pingEvery)
	}
}

// setReadDeadline sets the time by which a byte must have come. It is looked at before every read, and set anew at most
// once a second.
func (c *Conn) setReadDeadline() error {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	now := time.Now()
	at, often := now.Add(goneAfter), time.Second
	if c.pausing {
		at, often = now.Add(quietAfter), quietAfter/2
	}
	if first := earlier(c.limit, c.stopAt); !first.IsZero() && first.Before(at) {
		c.renewed = time.Time{} // once that is over, it is set anew whenever this was
		return c.conn.SetReadDeadline(first)
	}
	if now.Sub(c.renewed) < often && c.pausing == c.short {
		return nil
	}
	c.renewed, c.short = now, c.pausing
	return c.conn.SetReadDeadline(at)
}

// paused reports whether a read failed only because nothing has come for a moment.
func (c *Conn) paused(err error) bool {
	if !c.pausing || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	first := earlier(c.limit, c.stopAt)
	return c.short && (first.IsZero() || time.Now().Before(first))
}

// earlier is the earlier of two times, of which the zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// StopReading makes Next fail when it would have to wait, after the time given at the latest.
func (c *Conn) StopReading(in time.Duration) {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	at := time.Now().Add(in)
	if c.stopAt.IsZero() || at.Before(c.stopAt) {
		c.stopAt = at
		_ = c.conn.SetReadDeadline(at) // fails only where it is closed already
	}
}

// Serve runs the two halves of a connection and returns when both have ended and it is closed.
//
// read runs in a goroutine of its own and calls Next until that fails; when it returns ErrQuiet it is called again, in another
// one. write runs in the caller's; its context ends when
// read has ended. What write returns is the end that the client is told of, where the connection still has one to
// come: nil is a good one; a *CloseError has its code; of others the kind is told. When the client closes, or
// breaks a rule, what read got from Next counts. While the client has not answered a close frame, which it may take
// 3 s for, read goes on.
//
// The error is a fault of ours, for the log: a panic, or what write returned. A client that leaves is none.
func (c *Conn) Serve(ctx context.Context, read func() error, write func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := c.begin(read, cancel)
	defer c.left()
	return c.finish(httpx.Catch(func() error { return write(ctx) }), ended)
}

// Go is Serve in goroutines of their own: the handler may return at once, and what net/http and it hold of the request is
// freed. So ctx must not be the request's. over is called with what Serve would have returned.
func (c *Conn) Go(ctx context.Context, read func() error, write func(ctx context.Context) error, over func(error)) {
	ctx, cancel := context.WithCancel(ctx)
	ended := c.begin(read, cancel)
	go func() { // it does little itself, for the stack that stays under an idle connection to be small
		wrote := httpx.Catch(func() error { return write(ctx) })
		cancel()
		over(c.finish(wrote, ended))
		c.left()
	}()
}

// begin starts the reader, which cancels when it has ended and says why.
func (c *Conn) begin(read func() error, cancel context.CancelFunc) <-chan error {
	if c.cfg.Sockets != nil {
		c.cfg.Sockets.add(c)
	}
	c.mu.Lock()
	c.pinger = time.AfterFunc(pingEvery, c.ping)
	c.mu.Unlock()
	ended := make(chan error, 1)
	c.waitErr = c.ready()
	go c.attend(read, ended, cancel)
	return ended
}

// attend waits for something to come and has it read. When nothing more comes it leaves its place to another.
func (c *Conn) attend(read func() error, ended chan<- error, cancel context.CancelFunc) {
	if len(c.early) == 0 && c.waitErr == nil {
		c.wait()
	}
	err := httpx.Catch(read)
	if errors.Is(err, ErrQuiet) {
		go c.attend(read, ended, cancel)
		return
	}
	ended <- err
	cancel()
}

// left says that all is over.
func (c *Conn) left() {
	if c.cfg.Sockets != nil {
		c.cfg.Sockets.remove(c)
	}
}

// finish ends a connection whose writer has ended, waits for its reader, and closes it.
func (c *Conn) finish(wrote error, ended <-chan error) error {
	defer c.close()
	select {
	case why := <-ended:
		c.end(why, wrote)
		return fault(wrote, why)
	default:
	}
	c.goodbye(closing(wrote))
	c.StopReading(goodbye)
	return fault(wrote, <-ended)
}

// fault is the first error that is neither the client's doing nor a way to end.
func fault(list ...error) error {
	for _, err := range list {
		var end *CloseError
		if err != nil && !errors.As(err, &end) && !errors.Is(err, context.Canceled) && !errors.Is(err, errs.Draining) {
			return err
		}
	}
	return nil
}

// end ends a connection whose reader has ended: for why, or for what write has to say.
func (c *Conn) end(why, wrote error) {
	end := closing(why)
	if wrote != nil && !errors.Is(wrote, context.Canceled) && !end.Peer && end.Code == abnormal {
		end = closing(wrote) // reading was stopped by the writer
	}
	if end.Code == abnormal {
		return // there is nobody to tell
	}
	if end.Peer {
		end = Close(end.Code, "")
	}
	c.goodbye(end)
	c.linger()
}

// goodbye sends a close frame.
func (c *Conn) goodbye(end *CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	code := end.Code
	if code == abnormal {
		code = InternalError
	}
	_ = c.write(appendClose(nil, code, end.Reason), goodbye)
	c.ended = true
}

// linger reads what the client still sends, for a moment: a connection that is closed with unread bytes takes the close
// frame along.
func (c *Conn) linger() {
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if c.conn.SetReadDeadline(time.Now().Add(linger)) == nil {
		_, _ = io.Copy(io.Discard, c.conn)
	}
}

// close is the end of both halves.
func (c *Conn) close() {
	c.mu.Lock()
	c.ended = true
	c.pinger.Stop()
	c.mu.Unlock()
	_ = c.conn.Close()
	c.online.Closed()
}
