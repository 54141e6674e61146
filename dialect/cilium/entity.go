package cilium

import (
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// entity reads one item of fromEntities or toEntities.
func (d *decoder) entity(c field.Cursor, _ list, out *peers) {
	name := c.String()
	at := c.Source()
	everyNode := model.Peer{Nodes: &model.NodeSelector{}, Source: at}
	switch name {
	case "all":
		out.any = true
	case "world":
		out.add(model.Peer{Outside: true, Source: at})
	case "world-ipv4":
		out.add(model.Peer{Outside: true, Block: &model.IPBlock{CIDR: anyIPv4}, Source: at})
	case "world-ipv6":
		out.add(model.Peer{Outside: true, Block: &model.IPBlock{CIDR: anyIPv6}, Source: at})
	case "cluster", "cluster-mesh":
		out.add(model.Peer{Pods: &model.EndpointSelector{}, Source: at}, everyNode, apiServerPeer(at))
	case "host":
		out.add(model.Peer{Nodes: &model.NodeSelector{Which: model.OwnNode}, Source: at})
	case "remote-node":
		out.add(model.Peer{Nodes: &model.NodeSelector{Which: model.OtherNode}, Source: at})
	case apiServer:
		out.add(apiServerPeer(at))
	case "none":
	case "ingress", "init", "health", "unmanaged":
		c.Report(model.Info, "\""+name+"\" is nobody here: "+nobody[name], "")
	default:
		if !c.Present() || name == "" && c.Value() != "" {
			if !c.Present() {
				c.Error("must be a string, not null", "take the item out")
			}
			return
		}
		c.Error("unknown entity \""+name+"\"", "one of all, world, world-ipv4, world-ipv6, cluster, cluster-mesh, host, remote-node, kube-apiserver, ingress, init, health, unmanaged, none")
	}
}

// nobody says why no address is of an entity.
var nobody = map[string]string{
	"ingress":   "an ingress controller is a pod or a node, and is selected as one",
	"init":      "no pod sends before its labels are known",
	"health":    "there are no health endpoints",
	"unmanaged": "every pod of the cluster is known",
}

// apiServerPeer is the addresses that the API server is reached at.
func apiServerPeer(at model.Source) model.Peer {
	return model.Peer{
		Services: &model.ServiceSelector{Namespace: "default", Name: "kubernetes", Behind: model.BehindAddresses},
		Source:   at,
	}
}
