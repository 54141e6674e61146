//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const lockPath = "/run/sallyport-lab.lock"

// Lock waits until no other process holds the lock of this machine's one lab.
// Whoever calls RemoveLeftovers before Up, as tests of several packages at the
// same time do, holds it from before the one until after Down.
func Lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(lockPath, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lab's lock: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			_ = f.Close()
			return nil, fmt.Errorf("cannot lock the lab: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("cannot lock the lab: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
