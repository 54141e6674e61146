package prober

import (
	"errors"
	"net"
	"syscall"
)

func failed(err error) Outcome {
	o := Outcome{Result: "failed", Error: err.Error()}
	var t net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		o.Result = "refused"
	case errors.As(err, &t) && t.Timeout():
		o.Result = "timeout"
	}
	return o
}
