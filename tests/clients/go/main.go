// A function on AWS's client for Go, unmodified: it answers, fails, or streams an answer that breaks, as its event says.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type event struct {
	Fail   bool
	Stream string
}

func handle(ctx context.Context, in event) (io.Reader, error) {
	if in.Fail {
		return nil, errors.New("asked to")
	}
	if in.Stream != "" {
		return io.MultiReader(strings.NewReader(in.Stream), broken{}), nil
	}
	lc, _ := lambdacontext.FromContext(ctx)
	text, _ := json.Marshal(map[string]string{"id": lc.AwsRequestID, "arn": lc.InvokedFunctionArn})
	return strings.NewReader(string(text)), nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broke in the middle") }

func main() {
	lambda.StartWithOptions(handle, lambda.WithEnableSIGTERM(func() { println("go says good-bye") }))
}
