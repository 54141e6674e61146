// Command sallyport is the network-policy provider and its tools, and the CNI
// plugin where it is called by the plugin's name.
package main

import (
	"os"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/cli"
	"github.com/sallyport-dev/sallyport/cni"
)

func main() {
	if filepath.Base(os.Args[0]) == cni.Binary {
		os.Exit(cni.Main())
	}
	os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
