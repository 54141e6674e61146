package parity_test

import (
	_ "github.com/projectcalico/calico/libcalico-go/lib/backend/syncersv1/updateprocessors"
	_ "github.com/projectcalico/calico/libcalico-go/lib/selector/parser"
	_ "github.com/projectcalico/calico/libcalico-go/lib/validator/v3"
	_ "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	_ "github.com/sallyport-dev/sallyport/dialect/calico"
)
