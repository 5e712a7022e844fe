package kafka

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// publishKind is what a broker's answer to a publish says. What is not named is Uncertain: only what is known to mean
// that nothing was written is called so.
func publishKind(answer *kerr.Error) errs.Kind {
	switch answer {
	case kerr.MessageTooLarge, kerr.RecordListTooLarge:
		return errs.TooLarge
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InconsistentTopicID, kerr.InvalidTopicException:
		return errs.UnknownTopic
	case kerr.InvalidRecord, kerr.InvalidTimestamp:
		return errs.InvalidParam
	case kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch,
		kerr.BrokerNotAvailable, kerr.ReplicaNotAvailable, kerr.ListenerNotFound,
		kerr.NotEnoughReplicas, kerr.CorruptMessage, kerr.InvalidRequiredAcks, kerr.ThrottlingQuotaExceeded,
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
		kerr.SaslAuthenticationFailed, kerr.SecurityDisabled, kerr.PolicyViolation,
		kerr.UnsupportedVersion, kerr.UnsupportedForMessageFormat, kerr.UnsupportedCompressionType,
		kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator:
		return errs.Unavailable
	}
	return errs.Uncertain
}

// kindOf is the kind of what any other request came to. A store that can't do it now is Unavailable, also where an
// operator must help: the text says how it came.
func kindOf(err error) error {
	var answer *kerr.Error
	switch {
	case errors.Is(err, kgo.ErrClientClosed):
		return store.ErrClosed
	case !errors.As(err, &answer):
		return errs.Unavailable
	}
	switch answer {
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InconsistentTopicID:
		return errs.UnknownTopic
	case kerr.GroupIDNotFound:
		return errs.NotFound
	case kerr.TopicAlreadyExists:
		return store.ErrExists
	case kerr.InvalidTopicException:
		return errs.InvalidName
	case kerr.InvalidPartitions, kerr.InvalidReplicationFactor, kerr.InvalidConfig, kerr.PolicyViolation, kerr.InvalidRequest:
		return errs.InvalidParam
	case kerr.OffsetMetadataTooLarge, kerr.InvalidCommitOffsetSize:
		return errs.TooLarge
	case kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.FencedInstanceID, kerr.FencedMemberEpoch, kerr.StaleMemberEpoch:
		return errs.Fenced
	case kerr.NonEmptyGroup, kerr.GroupSubscribedToTopic, kerr.RebalanceInProgress:
		return errs.Conflict
	}
	return errs.Unavailable
}
