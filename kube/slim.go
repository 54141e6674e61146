package kube

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// fields are those of a protobuf message that are decoded, by number; a field
// without fields of its own is decoded whole. Pods and nodes come often, and
// most of what they say (volumes, probes, who manages which field, images) no
// policy sees: what is not decoded costs neither time nor memory.
type fields map[protowire.Number]fields

// metadataFields are those of an object's metadata that an item or trim looks at.
var metadataFields = fields{
	1: nil, 3: nil, 5: nil, 6: nil, // name, namespace, uid, resourceVersion
	8: nil, 9: nil, // creationTimestamp, deletionTimestamp
	11: nil, 12: nil, 13: nil, // labels, annotations (a bookmark ends a streamed list with one), ownerReferences
}

// containerFields are the ports.
var containerFields = fields{6: nil}

// podFields are what trimPod looks at, by the numbers of k8s.io/api/core/v1.
var podFields = fields{
	1: metadataFields,
	2: { // spec
		2: containerFields, 20: containerFields, // containers, initContainers
		8: nil, 10: nil, 11: nil, // serviceAccountName, nodeName, hostNetwork
		16: nil, 17: nil, // hostname, subdomain
	},
	3: {1: nil, 2: nil, 6: nil, 12: nil}, // status: phase, conditions, podIP, podIPs
}

// nodeFields are what trimNode looks at.
var nodeFields = fields{
	1: metadataFields,
	2: {1: nil, 7: nil}, // spec: podCIDR, podCIDRs
	3: {4: nil, 5: nil}, // status: conditions, addresses
}

// append appends what is decoded of the message.
func (f fields) append(out, message []byte) ([]byte, error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, message[n:])
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		field := message[:n+size]
		message = message[n+size:]
		inside, wanted := f[number]
		switch {
		case !wanted:
		case inside == nil || kind != protowire.BytesType:
			out = append(out, field...)
		default:
			value, _ := protowire.ConsumeBytes(field[n:])
			less, err := inside.append(nil, value)
			if err != nil {
				return nil, err
			}
			out = protowire.AppendBytes(protowire.AppendTag(out, number, kind), less)
		}
	}
	return out, nil
}

// unmarshal has decode decode the fields of the message.
func (f fields) unmarshal(message []byte, decode func([]byte) error) error {
	less, err := f.append(nil, message)
	if err != nil {
		return fmt.Errorf("cannot be decoded: %w", err)
	}
	return decode(less)
}

// slimPod is a Pod of which podFields are decoded.
type slimPod struct{ corev1.Pod }

func (p *slimPod) Unmarshal(b []byte) error { return podFields.unmarshal(b, p.Pod.Unmarshal) }

func (p *slimPod) DeepCopyObject() runtime.Object { return &slimPod{*p.Pod.DeepCopy()} }

// slimNode is a Node of which nodeFields are decoded.
type slimNode struct{ corev1.Node }

func (n *slimNode) Unmarshal(b []byte) error { return nodeFields.unmarshal(b, n.Node.Unmarshal) }

func (n *slimNode) DeepCopyObject() runtime.Object { return &slimNode{*n.Node.DeepCopy()} }

// slimList is a list of them.
type slimList[T any, P interface {
	*T
	runtime.Object
	Unmarshal([]byte) error
}] struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []T `json:"items"`
}

func (l *slimList[T, P]) Reset() { *l = slimList[T, P]{} }

func (l *slimList[T, P]) Unmarshal(b []byte) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("cannot be decoded: %w", protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if size < 0 {
			return fmt.Errorf("cannot be decoded: %w", protowire.ParseError(size))
		}
		value, _ := protowire.ConsumeBytes(b[n:])
		b = b[n+size:]
		var err error
		switch number {
		case 1:
			err = l.ListMeta.Unmarshal(value)
		case 2:
			l.Items = append(l.Items, *new(T))
			err = P(&l.Items[len(l.Items)-1]).Unmarshal(value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// DeepCopyObject is there for the interface: nobody copies lists.
func (l *slimList[T, P]) DeepCopyObject() runtime.Object {
	out := &slimList[T, P]{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *P(&l.Items[i]).DeepCopyObject().(P))
	}
	return out
}

// slimScheme decodes what a Watcher reads: pods and nodes slim.
var slimScheme = runtime.NewScheme()

func init() {
	v1 := corev1.SchemeGroupVersion
	slimScheme.AddKnownTypeWithName(v1.WithKind("Pod"), &slimPod{})
	slimScheme.AddKnownTypeWithName(v1.WithKind("PodList"), &slimList[slimPod, *slimPod]{})
	slimScheme.AddKnownTypeWithName(v1.WithKind("Node"), &slimNode{})
	slimScheme.AddKnownTypeWithName(v1.WithKind("NodeList"), &slimList[slimNode, *slimNode]{})
	slimScheme.AddKnownTypes(v1, &corev1.Service{}, &corev1.ServiceList{})
	metav1.AddToGroupVersion(slimScheme, v1)
	utilruntime.Must(discoveryv1.AddToScheme(slimScheme))
}
