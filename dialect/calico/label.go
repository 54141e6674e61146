package calico

import (
	"errors"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/calico/selector"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// Labels that nobody writes on a pod and that it has all the same. Those of its
// namespace and of its account it inherits with a prefix, unless it carries one
// of that very name itself.
const (
	ownDomain         = "projectcalico.org/"
	labelNamespace    = ownDomain + "namespace"
	labelAccount      = ownDomain + "serviceaccount"
	labelOrchestrator = ownDomain + "orchestrator"
	labelName         = ownDomain + "name"
	prefixNamespace   = "pcns."
	prefixAccount     = "pcsa."
	orchestrator      = "k8s"
)

// maxSelector is how long a selector the API server takes.
const maxSelector = 1024

// readSelector reads a selector; an absent one is all(). With an error, which
// it reports, the selector means nothing.
func readSelector(c field.Cursor) selector.Selector {
	text := c.String()
	if len(text) > maxSelector {
		c.Report(model.Warning, "is longer than the API server accepts", "at most "+itoa(maxSelector)+" characters")
	}
	s, err := selector.Parse(text)
	var wrong *selector.Error
	if errors.As(err, &wrong) {
		c.ErrorInside(wrong.Offset, wrong.Message, wrong.Hint)
	}
	return s
}

// plainSelector reads a selector in which global() has no meaning.
func plainSelector(c field.Cursor) selector.Selector {
	s := readSelector(c)
	if s.HasGlobal() {
		c.Error("global() means something in the namespaceSelector of a rule's source or destination only", "")
		return selector.Selector{}
	}
	return s
}

// nothing is what no endpoint is.
var nothing = model.Selector{Op: model.SelectNone}

// both is nothing as soon as one of the two is.
func both(a, b model.Selector) model.Selector {
	if a.Op == model.SelectNone || b.Op == model.SelectNone {
		return nothing
	}
	return model.And(a, b)
}

// onPods asks a pod.
func onPods(test model.Selector) model.Selector {
	switch test.Key {
	case labelNamespace:
		return selector.First(test, model.NamespaceName)
	case labelAccount:
		return selector.First(test, model.AccountName)
	case labelOrchestrator:
		return selector.Fixed(test, orchestrator)
	}
	if rest, ok := strings.CutPrefix(test.Key, prefixNamespace); ok {
		return selector.First(test, test.Key, within(rest, model.NamespaceName, model.NamespaceLabels))
	}
	if rest, ok := strings.CutPrefix(test.Key, prefixAccount); ok {
		return selector.First(test, test.Key, within(rest, model.AccountName, model.AccountLabels))
	}
	return test
}

// onSets asks an address set: it has its own labels and inherits those of its
// namespace, if it is in one.
func onSets(test model.Selector) model.Selector {
	if test.Key == labelNamespace {
		return selector.First(test, model.NamespaceName)
	}
	if rest, ok := strings.CutPrefix(test.Key, prefixNamespace); ok {
		return selector.First(test, test.Key, within(rest, model.NamespaceName, model.NamespaceLabels))
	}
	return test
}

// onAccount asks the account of a pod.
func onAccount(test model.Selector) model.Selector {
	return selector.First(test, within(test.Key, model.AccountName, model.AccountLabels))
}

// within is the key of a label of a namespace or an account, whose name is a
// label, too.
func within(label, name, labels string) string {
	if label == labelName {
		return name
	}
	return labels + label
}

func podLabels(s selector.Selector) model.Selector {
	return s.Model(selector.Mapping{Label: onPods, Global: nothing})
}

func setLabels(s selector.Selector) model.Selector {
	return s.Model(selector.Mapping{Label: onSets, Global: nothing})
}

func accountLabels(s selector.Selector) model.Selector {
	return s.Model(selector.Mapping{Label: onAccount, Global: nothing})
}

// withoutAccount is what a selector of accounts means for what runs as none.
func withoutAccount(s selector.Selector) model.Selector {
	return s.Model(selector.Mapping{Label: selector.Absent, Global: nothing})
}

// podNamespaces is what a selector of namespaces means for pods, which are
// always in one.
func podNamespaces(s selector.Selector) model.Selector {
	return s.Model(selector.Mapping{Global: nothing, Label: func(test model.Selector) model.Selector {
		return selector.First(test, within(test.Key, model.MetadataName, ""))
	}})
}

// setNamespaces is what a selector of namespaces means for sets. One of the
// whole cluster has no labels of a namespace, and is not among all().
func setNamespaces(s selector.Selector) model.Selector {
	return s.Model(selector.Mapping{
		Global: nothing, All: model.Selector{Op: model.SelectExists, Key: model.NamespaceName},
		Label: func(test model.Selector) model.Selector {
			return selector.First(test, within(test.Key, model.NamespaceName, model.NamespaceLabels))
		},
	})
}
