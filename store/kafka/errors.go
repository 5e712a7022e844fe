package kafka

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// verdict is what an answer of a broker says: to a publish, and to any other request.
type verdict struct {
	publish errs.Kind
	other   error
}

// verdicts has what is known of error codes. What is not named is Uncertain for a publish: only what is known to mean that
// nothing was written is called anything else; and Unavailable for another request, also where an operator must help: the
// text says how it came.
var verdicts = map[*kerr.Error]verdict{ // read only
	// The message, or what it is sent to.
	kerr.MessageTooLarge:         {errs.TooLarge, errs.Unavailable},
	kerr.RecordListTooLarge:      {errs.TooLarge, errs.Unavailable},
	kerr.InvalidRecord:           {errs.InvalidParam, errs.Unavailable},
	kerr.InvalidTimestamp:        {errs.InvalidParam, errs.Unavailable},
	kerr.UnknownTopicOrPartition: {errs.UnknownTopic, errs.UnknownTopic},
	kerr.UnknownTopicID:          {errs.UnknownTopic, errs.UnknownTopic},
	kerr.InconsistentTopicID:     {errs.UnknownTopic, errs.UnknownTopic},
	kerr.InvalidTopicException:   {errs.UnknownTopic, errs.InvalidName},

	// The cluster can't, or won't, now. Nothing was written.
	kerr.LeaderNotAvailable:                 {errs.Unavailable, errs.Unavailable},
	kerr.NotLeaderForPartition:              {errs.Unavailable, errs.Unavailable},
	kerr.FencedLeaderEpoch:                  {errs.Unavailable, errs.Unavailable},
	kerr.UnknownLeaderEpoch:                 {errs.Unavailable, errs.Unavailable},
	kerr.BrokerNotAvailable:                 {errs.Unavailable, errs.Unavailable},
	kerr.ReplicaNotAvailable:                {errs.Unavailable, errs.Unavailable},
	kerr.ListenerNotFound:                   {errs.Unavailable, errs.Unavailable},
	kerr.NotEnoughReplicas:                  {errs.Unavailable, errs.Unavailable},
	kerr.CorruptMessage:                     {errs.Unavailable, errs.Unavailable},
	kerr.InvalidRequiredAcks:                {errs.Unavailable, errs.Unavailable},
	kerr.ThrottlingQuotaExceeded:            {errs.Unavailable, errs.Unavailable},
	kerr.TopicAuthorizationFailed:           {errs.Unavailable, errs.Unavailable},
	kerr.ClusterAuthorizationFailed:         {errs.Unavailable, errs.Unavailable},
	kerr.TransactionalIDAuthorizationFailed: {errs.Unavailable, errs.Unavailable},
	kerr.SaslAuthenticationFailed:           {errs.Unavailable, errs.Unavailable},
	kerr.SecurityDisabled:                   {errs.Unavailable, errs.Unavailable},
	kerr.UnsupportedVersion:                 {errs.Unavailable, errs.Unavailable},
	kerr.UnsupportedForMessageFormat:        {errs.Unavailable, errs.Unavailable},
	kerr.UnsupportedCompressionType:         {errs.Unavailable, errs.Unavailable},
	kerr.CoordinatorLoadInProgress:          {errs.Unavailable, errs.Unavailable},
	kerr.CoordinatorNotAvailable:            {errs.Unavailable, errs.Unavailable},
	kerr.NotCoordinator:                     {errs.Unavailable, errs.Unavailable},
	kerr.PolicyViolation:                    {errs.Unavailable, errs.InvalidParam},

	// Other requests alone. A publish that is answered so says nothing.
	kerr.GroupIDNotFound:          {errs.Uncertain, errs.NotFound},
	kerr.TopicAlreadyExists:       {errs.Uncertain, store.ErrExists},
	kerr.InvalidPartitions:        {errs.Uncertain, errs.InvalidParam},
	kerr.InvalidReplicationFactor: {errs.Uncertain, errs.InvalidParam},
	kerr.InvalidConfig:            {errs.Uncertain, errs.InvalidParam},
	kerr.InvalidRequest:           {errs.Uncertain, errs.InvalidParam},
	kerr.OffsetMetadataTooLarge:   {errs.Uncertain, errs.TooLarge},
	kerr.InvalidCommitOffsetSize:  {errs.Uncertain, errs.TooLarge},
	kerr.UnknownMemberID:          {errs.Uncertain, errs.Fenced},
	kerr.IllegalGeneration:        {errs.Uncertain, errs.Fenced},
	kerr.FencedInstanceID:         {errs.Uncertain, errs.Fenced},
	kerr.FencedMemberEpoch:        {errs.Uncertain, errs.Fenced},
	kerr.StaleMemberEpoch:         {errs.Uncertain, errs.Fenced},
	kerr.NonEmptyGroup:            {errs.Uncertain, errs.Conflict},
	kerr.GroupSubscribedToTopic:   {errs.Uncertain, errs.Conflict},
	kerr.RebalanceInProgress:      {errs.Uncertain, errs.Conflict},
}

// publishKind is what a broker's answer to a publish says.
func publishKind(answer *kerr.Error) errs.Kind {
	if v, known := verdicts[answer]; known {
		return v.publish
	}
	return errs.Uncertain
}

// kindOf is the kind of what any other request came to.
func kindOf(err error) error {
	var answer *kerr.Error
	switch {
	case errors.Is(err, kgo.ErrClientClosed):
		return store.ErrClosed
	case !errors.As(err, &answer):
		return errs.Unavailable
	}
	if v, known := verdicts[answer]; known {
		return v.other
	}
	return errs.Unavailable
}
