package field

import (
	"net/netip"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// CheckMetadata reads the metadata of a policy, and reports a name or labels
// that no object can have.
func CheckMetadata(root Cursor, s model.Source) (labels map[string]string) {
	labels, _ = Metadata(root)
	meta := root.Field("metadata")
	if !ValidName(s.Name) {
		meta.Field("name").Error("\""+s.Name+"\" is no valid name", "lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit, at most 253")
	}
	for k, v := range labels {
		if !ValidLabelKey(k) || !ValidLabelValue(v) {
			meta.Field("labels").Error("label "+k+"="+v+" cannot exist", "see the rules for label keys and values")
		}
	}
	return labels
}

// Prefix reads a CIDR as the API server does: no leading zeros, no IPv4-mapped
// address; host bits are allowed and mean nothing.
func Prefix(c Cursor) (netip.Prefix, bool) {
	s := c.String()
	if s == "" {
		if c.Value() == "" {
			c.Error("is missing", "a CIDR such as 10.0.0.0/8 or 2001:db8::/32")
		}
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil && !strings.Contains(s, "/"):
		c.Error("\""+s+"\" is no CIDR", "write "+s+"/32 for one IPv4 address, /128 for one IPv6 address")
	case err != nil:
		c.Error("\""+s+"\" is no CIDR", "such as 10.0.0.0/8 or 2001:db8::/32, without leading zeros")
	case p.Addr().Is4In6():
		c.Error("\""+s+"\" is an IPv4-mapped IPv6 address", "write the IPv4 CIDR")
	case p.Masked() != p:
		c.Report(model.Warning, s+" has bits beyond its prefix; "+p.Masked().String()+" is meant", "write "+p.Masked().String())
		return p.Masked(), true
	default:
		return p, true
	}
	return netip.Prefix{}, false
}
