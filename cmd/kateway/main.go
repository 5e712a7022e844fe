// Command kateway is an HTTP gateway for Kafka: publish with a POST, subscribe with a GET.
package main

import "github.com/kateway/kateway/cli"

func main() { cli.Main(nil) }
