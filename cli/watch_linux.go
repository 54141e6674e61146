package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// settle is how long watched files must be quiet before they are read again:
// editors and kustomize write a file in several steps. Files that are never
// quiet are read after restless.
const (
	settle   = 20 * time.Millisecond
	restless = 200 * time.Millisecond
)

// watcher sees every change below some paths from the moment it is made.
// Folders that appear later are watched too, the paths themselves as well; a
// file is watched through its folder, since editors replace files.
type watcher struct {
	paths   []string
	fd      int
	events  *os.File
	folders map[int32]folder // by inotify's descriptor
}

// folder is one that is watched: all of it, or only for paths that come and go.
type folder struct {
	path string
	all  bool
}

const watchMask = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO

// watch begins to watch; run tells of the changes since then.
func watch(paths []string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch files: %w", err)
	}
	// As a pollable file, so that Close ends a pending Read.
	w := &watcher{fd: fd, events: os.NewFile(uintptr(fd), "inotify"), folders: map[int32]folder{}}
	for _, p := range paths {
		if _, err := os.Stat(p); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot watch %s: %w", p, err), w.close())
		}
		w.paths = append(w.paths, filepath.Clean(p))
	}
	if err := w.add(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *watcher) close() error { return w.events.Close() }

// add watches what is there of the paths at present.
func (w *watcher) add() error {
	for _, p := range w.paths {
		info, err := os.Stat(p)
		isFile := err == nil && !info.IsDir()
		if err := w.addFolder(filepath.Dir(p), isFile); err != nil {
			return err
		}
		if isFile {
			continue
		}
		// The separator has the walk follow a path that is a symbolic link.
		err = filepath.WalkDir(p+string(filepath.Separator), func(sub string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil // it vanished meanwhile; the event for that is on its way
			}
			return w.addFolder(filepath.Clean(sub), true)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) addFolder(path string, all bool) error {
	wd, err := unix.InotifyAddWatch(w.fd, path, watchMask)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", path, err)
	}
	w.folders[int32(wd)] = folder{path, all || w.folders[int32(wd)].all}
	return nil
}

// run calls changed after every change, until the context ends; with an error
// if changes of some files will not be seen.
func (w *watcher) run(ctx context.Context, changed func(error)) error {
	stop := context.AfterFunc(ctx, func() { w.close() })
	defer stop()
	notify := make(chan error, 1)
	go settleEvents(ctx, notify, changed)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.events.Read(buf)
		if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot watch files: %w", err)
		}
		concerned, folders := w.decode(buf[:n])
		if folders {
			err = w.add()
		}
		if !concerned && err == nil {
			continue
		}
		select {
		case notify <- err:
		default:
		}
	}
}

// decode says whether raw inotify events concern the paths, and whether a
// folder may have come.
func (w *watcher) decode(buf []byte) (concerned, folders bool) {
	for len(buf) >= unix.SizeofInotifyEvent {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&buf[0]))
		end := min(len(buf), unix.SizeofInotifyEvent+int(e.Len))
		name := strings.TrimRight(string(buf[unix.SizeofInotifyEvent:end]), "\x00")
		buf = buf[end:]
		if e.Mask&unix.IN_Q_OVERFLOW != 0 {
			return true, true
		}
		f := w.folders[e.Wd]
		if !f.all && !w.isPath(filepath.Join(f.path, name)) {
			continue
		}
		concerned = true
		folders = folders || e.Mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0
		if e.Mask&unix.IN_IGNORED != 0 {
			delete(w.folders, e.Wd)
		}
	}
	return concerned, folders
}

func (w *watcher) isPath(path string) bool {
	for _, p := range w.paths {
		if p == path {
			return true
		}
	}
	return false
}

// settleEvents calls changed once after each burst of events.
func settleEvents(ctx context.Context, notify <-chan error, changed func(error)) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	var began time.Time // of the burst
	var failed error
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-notify:
			if began.IsZero() {
				began = time.Now()
			}
			failed = errors.Join(failed, err)
			timer.Reset(min(settle, time.Until(began.Add(restless))))
		case <-timer.C:
			changed(failed)
			began, failed = time.Time{}, nil
		}
	}
}
