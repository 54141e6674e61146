package engine

import (
	"reflect"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// Between is the change that makes the old cluster the new one.
func Between(before, after *model.Cluster) Change {
	var ch Change
	endpoints := map[string]*model.Endpoint{}
	for i := range before.Endpoints {
		endpoints[before.Endpoints[i].Key()] = &before.Endpoints[i]
	}
	for i := range after.Endpoints {
		e := &after.Endpoints[i]
		if old := endpoints[e.Key()]; old == nil || !reflect.DeepEqual(old, e) {
			ch.Endpoints = append(ch.Endpoints, e)
		}
		delete(endpoints, e.Key())
	}
	for i := range before.Endpoints {
		if key := before.Endpoints[i].Key(); endpoints[key] != nil {
			ch.DeletedEndpoints = append(ch.DeletedEndpoints, key)
		}
	}
	policies := map[string]*model.Policy{}
	for _, p := range before.Policies {
		policies[PolicyKey(p)] = p
	}
	for _, p := range after.Policies {
		if old := policies[PolicyKey(p)]; old == nil || !reflect.DeepEqual(old, p) {
			ch.Policies = append(ch.Policies, p)
		}
		delete(policies, PolicyKey(p))
	}
	for _, p := range before.Policies {
		if policies[PolicyKey(p)] != nil {
			ch.DeletedPolicies = append(ch.DeletedPolicies, PolicyKey(p))
		}
	}
	ch.Namespaces, ch.Nodes = after.Namespaces, after.Nodes
	if !slices.Equal(before.PodRanges, after.PodRanges) {
		ch.PodRanges = &after.PodRanges
	}
	return ch
}
