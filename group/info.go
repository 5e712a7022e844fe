package group

import "time"

// Info is this process's membership in a group. The zero value is none.
type Info struct {
	Mode       Mode            `json:"mode"`
	Clients    int             `json:"clients"`
	Partitions []PartitionInfo `json:"partitions"` // held here, sorted
}

// PartitionInfo is a partition that this process holds.
type PartitionInfo struct {
	Partition     int32         `json:"partition"`
	InFlight      int           `json:"in_flight"`      // delivered and not settled
	OldestUnacked time.Duration `json:"oldest_unacked"` // since the longest of them was delivered; 0 where there is none
}
