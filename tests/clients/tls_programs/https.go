package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

func body(answer *http.Response, err error) []byte {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer answer.Body.Close()
	found, err := io.ReadAll(answer.Body)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return found
}

func main() {
	client := &http.Client{Timeout: 30 * time.Second}
	answer, err := client.Get(os.Args[1] + "/blob")
	found := body(answer, err)
	fmt.Printf("GET %d %x %s\n", answer.StatusCode, sha256.Sum256(found), strings.TrimSuffix(answer.Proto, ".0"))
	answer, err = client.Post(os.Args[1]+"/echo", "text/plain", strings.NewReader("sent by net/http"))
	found = body(answer, err)
	fmt.Printf("POST %d %s\n%s\n", answer.StatusCode, answer.Header.Get("x-proxy-error"), found)
}
