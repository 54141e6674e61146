package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// settle is how long a watched tree must be quiet before it is read again:
// editors and kustomize write a file in several steps.
const settle = 20 * time.Millisecond

// watchFiles calls changed after every change below the paths, until the
// context ends. Folders that appear later are watched too; a file is watched
// through its folder, since editors replace files.
func watchFiles(ctx context.Context, paths []string, changed func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch files: %w", err)
	}
	// As a pollable file, so that Close ends a pending Read.
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	for _, p := range paths {
		if err := watchTree(fd, p); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	notify := make(chan struct{}, 1)
	go settleEvents(ctx, notify, changed)
	buf := make([]byte, 64<<10)
	for {
		n, err := events.Read(buf)
		if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot watch files: %w", err)
		}
		if createsFolder(buf[:n]) {
			for _, p := range paths {
				if err := watchTree(fd, p); err != nil {
					return err
				}
			}
		}
		select {
		case notify <- struct{}{}:
		default:
		}
	}
}

// settleEvents calls changed once after each burst of events.
func settleEvents(ctx context.Context, notify <-chan struct{}, changed func()) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-notify:
			timer.Reset(settle)
		case <-timer.C:
			changed()
		}
	}
}

const watchMask = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO

func watchTree(fd int, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", path, err)
	}
	if !info.IsDir() {
		path = filepath.Dir(path)
		_, err := unix.InotifyAddWatch(fd, path, watchMask)
		return watchError(path, err)
	}
	return filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // it vanished meanwhile; the event for that is on its way
		}
		_, err = unix.InotifyAddWatch(fd, p, watchMask)
		return watchError(p, err)
	})
}

func watchError(path string, err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("cannot watch %s: %w", path, err)
}

// createsFolder says whether one of the raw inotify events is a new folder.
func createsFolder(buf []byte) bool {
	for len(buf) >= unix.SizeofInotifyEvent {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&buf[0]))
		if e.Mask&unix.IN_ISDIR != 0 && e.Mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
			return true
		}
		buf = buf[min(len(buf), unix.SizeofInotifyEvent+int(e.Len)):]
	}
	return false
}
