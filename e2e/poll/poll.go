// Package poll turns a question that may have to be asked again into its
// answer. It waits in real time and keeps nothing.
package poll

import (
	"context"
	"fmt"
	"time"
)

// Until tries until it works, at most for the time given; then it returns why
// it did not.
func Until(ctx context.Context, limit time.Duration, try func() error) error {
	for begin := time.Now(); ; {
		err := try()
		if err == nil {
			return nil
		}
		if time.Since(begin) > limit {
			return fmt.Errorf("after %v: %w", limit, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
