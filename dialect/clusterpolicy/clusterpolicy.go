// Package clusterpolicy decodes policy.networking.k8s.io: ClusterNetworkPolicy, AdminNetworkPolicy and
// BaselineAdminNetworkPolicy.
package clusterpolicy

import (
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// Decoders lists what the package decodes, by apiVersion and kind.
var Decoders = map[[2]string]func(field.Object) (model.Parts, []model.Problem){}
