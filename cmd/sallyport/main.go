// Command sallyport is the network-policy provider and its tools.
package main

import (
	"os"

	"github.com/sallyport-dev/sallyport/cli"
)

func main() { os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
