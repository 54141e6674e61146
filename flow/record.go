package flow

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/sallyport-dev/sallyport/model"
)

// Record is a connection that somebody observed, as far as policies see it.
// Records of equal connections are equal.
type Record struct {
	Source, Destination       netip.Addr // zero if not recorded
	SourcePod, DestinationPod string     // "namespace/name", "" for what is no pod, or is not recorded
	Key                       model.PortKey
	Allowed                   bool
}

// recorded is what a line may hold: our own fields, or Hubble's.
type recorded struct {
	Source          json.RawMessage `json:"source"`
	Destination     json.RawMessage `json:"destination"`
	SourcePod       string          `json:"sourcePod"`
	DestinationPod  string          `json:"destinationPod"`
	DestinationPort uint16          `json:"destinationPort"`
	Protocol        uint8           `json:"protocol"`
	Verdict         string          `json:"verdict"`
	hubble
	Flow *struct {
		Source      json.RawMessage `json:"source"`
		Destination json.RawMessage `json:"destination"`
		Verdict     string          `json:"verdict"`
		hubble
	} `json:"flow"`
}

// hubble is what Hubble's flows have of their own.
type hubble struct {
	IP *struct {
		Source      netip.Addr `json:"source"`
		Destination netip.Addr `json:"destination"`
	} `json:"IP"`
	L4 *struct {
		TCP, UDP, SCTP *struct {
			Port uint16 `json:"destination_port"`
		}
		ICMPv4, ICMPv6 *struct {
			Type, Code uint8
		}
	} `json:"l4"`
	IsReply bool   `json:"is_reply"`
	Type    string `json:"Type"` // L3_L4, L7, …
}

type hubbleEnd struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod_name"`
}

// ParseRecord reads one line of `sallyport monitor -o json` or of Hubble's
// JSON export. A line that is no connection of its own, such as a reply or a
// lost event, is not ok.
func ParseRecord(line []byte) (r Record, ok bool, err error) {
	var x recorded
	if err := json.Unmarshal(line, &x); err != nil {
		return r, false, fmt.Errorf("is no flow: %w", err)
	}
	switch {
	case x.Flow != nil:
		return fromHubble(x.Flow.hubble, x.Flow.Source, x.Flow.Destination, x.Flow.Verdict)
	case x.IP != nil:
		return fromHubble(x.hubble, x.Source, x.Destination, x.Verdict)
	case x.Verdict != "allowed" && x.Verdict != "denied":
		return r, false, nil
	}
	r = Record{
		SourcePod: x.SourcePod, DestinationPod: x.DestinationPod, Allowed: x.Verdict == "allowed",
		Key: model.PortKeyOf(model.Protocol(x.Protocol), x.DestinationPort),
	}
	if err := errors.Join(json.Unmarshal(x.Source, &r.Source), json.Unmarshal(x.Destination, &r.Destination)); err != nil {
		return r, false, fmt.Errorf("is no flow: source and destination must be addresses: %w", err)
	}
	return r, true, nil
}

func fromHubble(x hubble, source, destination json.RawMessage, verdict string) (r Record, ok bool, err error) {
	if x.IsReply || x.L4 == nil || x.IP == nil || x.Type != "" && x.Type != "L3_L4" {
		return r, false, nil
	}
	r = Record{Source: x.IP.Source.Unmap(), Destination: x.IP.Destination.Unmap()}
	switch l := x.L4; {
	case l.TCP != nil:
		r.Key = model.PortKeyOf(model.TCP, l.TCP.Port)
	case l.UDP != nil:
		r.Key = model.PortKeyOf(model.UDP, l.UDP.Port)
	case l.SCTP != nil:
		r.Key = model.PortKeyOf(model.SCTP, l.SCTP.Port)
	case l.ICMPv4 != nil:
		r.Key = model.PortKeyOf(model.ICMP, uint16(l.ICMPv4.Type)<<8|uint16(l.ICMPv4.Code))
	case l.ICMPv6 != nil:
		r.Key = model.PortKeyOf(model.ICMPv6, uint16(l.ICMPv6.Type)<<8|uint16(l.ICMPv6.Code))
	default:
		return r, false, nil
	}
	switch verdict {
	case "FORWARDED", "REDIRECTED", "AUDIT", "TRACED":
		r.Allowed = true
	case "DROPPED":
	default:
		return r, false, nil
	}
	for _, end := range []struct {
		raw json.RawMessage
		pod *string
	}{{source, &r.SourcePod}, {destination, &r.DestinationPod}} {
		var e hubbleEnd
		if len(end.raw) == 0 {
			continue
		}
		if err := json.Unmarshal(end.raw, &e); err != nil {
			return r, false, fmt.Errorf("is no flow: %w", err)
		}
		if e.Pod != "" {
			*end.pod = e.Namespace + "/" + e.Pod
		}
	}
	return r, true, nil
}
