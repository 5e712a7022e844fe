package meta

import "github.com/prometheus/client_golang/prometheus"

// collector shows a directory's state as metrics.
type collector struct{ d *Directory }

var (
	descObjects = prometheus.NewDesc("kateway_meta_objects", "Objects that meta knows, by kind.", []string{"kind"}, nil)
	descStale   = prometheus.NewDesc("kateway_meta_stale", "1 while the source of meta can't be reached, or has never answered.", nil, nil)
	descFaults  = prometheus.NewDesc("kateway_meta_faults", "Places and objects of meta that can't be read, so that their last good content serves.", nil, nil)
	descLoads   = prometheus.NewDesc("kateway_meta_loads_total", "Updates taken from the source of meta.", nil, nil)
)

// Describe is prometheus.Collector's.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descObjects, descStale, descFaults, descLoads} {
		ch <- d
	}
}

// Collect is prometheus.Collector's.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.d.mu.Lock()
	stale := c.d.state.Stale || c.d.updates == 0
	faults, loads := len(c.d.places)+len(c.d.unsound), c.d.updates
	c.d.mu.Unlock()
	s := c.d.Snapshot()
	for _, kind := range Kinds() {
		ch <- prometheus.MustNewConstMetric(descObjects, prometheus.GaugeValue, float64(s.Len(kind)), string(kind))
	}
	var away float64
	if stale {
		away = 1
	}
	ch <- prometheus.MustNewConstMetric(descStale, prometheus.GaugeValue, away)
	ch <- prometheus.MustNewConstMetric(descFaults, prometheus.GaugeValue, float64(faults))
	ch <- prometheus.MustNewConstMetric(descLoads, prometheus.CounterValue, float64(loads))
}
