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
	between(before, after, &ch)
	if !slices.Equal(before.PodRanges, after.PodRanges) {
		ch.PodRanges = &after.PodRanges
	}
	return ch
}

// between adds what changed of what policies refer to.
func between(before, after *model.Cluster, ch *Change) {
	ch.Accounts, ch.Tiers = after.Accounts, after.Tiers
	accounts, tiers := map[string]bool{}, map[string]bool{}
	for i := range after.Accounts {
		accounts[after.Accounts[i].Key()] = true
	}
	for _, a := range before.Accounts {
		if !accounts[a.Key()] {
			ch.Accounts = append(slices.Clip(ch.Accounts), model.ServiceAccount{Namespace: a.Namespace, Name: a.Name})
		}
	}
	for _, t := range after.Tiers {
		tiers[t.Name] = true
	}
	for _, t := range before.Tiers {
		if !tiers[t.Name] {
			ch.DeletedTiers = append(ch.DeletedTiers, t.Name)
		}
	}
	sets, services := map[string]bool{}, map[string]bool{}
	for i := range after.Sets {
		ch.Sets = append(ch.Sets, &after.Sets[i])
		sets[after.Sets[i].Key()] = true
	}
	for i := range before.Sets {
		if key := before.Sets[i].Key(); !sets[key] {
			ch.DeletedSets = append(ch.DeletedSets, key)
		}
	}
	for i := range after.Services {
		ch.Services = append(ch.Services, &after.Services[i])
		services[after.Services[i].Key()] = true
	}
	for i := range before.Services {
		if key := before.Services[i].Key(); !services[key] {
			ch.DeletedServices = append(ch.DeletedServices, key)
		}
	}
}
