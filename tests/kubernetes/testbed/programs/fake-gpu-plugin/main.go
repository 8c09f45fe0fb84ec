// A device plugin of the kubelet without hardware.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// fakeGPUs answers the kubelet. Containers see which GPUs they got as they do with
// NVIDIA's: in NVIDIA_VISIBLE_DEVICES.
type fakeGPUs struct {
	plugin.UnimplementedDevicePluginServer
	count int
	sick  string // a file that lists the ids of unhealthy GPUs, one a line; it need not exist
}

func (f *fakeGPUs) devices() []*plugin.Device {
	text, _ := os.ReadFile(f.sick)
	sick := strings.Fields(string(text))
	var devices []*plugin.Device
	for i := range f.count {
		device := &plugin.Device{ID: fmt.Sprintf("GPU-%d", i), Health: plugin.Healthy}
		if slices.Contains(sick, device.ID) {
			device.Health = plugin.Unhealthy
		}
		devices = append(devices, device)
	}
	return devices
}

func (f *fakeGPUs) GetDevicePluginOptions(context.Context, *plugin.Empty) (*plugin.DevicePluginOptions, error) {
	return &plugin.DevicePluginOptions{}, nil
}

func (f *fakeGPUs) ListAndWatch(_ *plugin.Empty, stream plugin.DevicePlugin_ListAndWatchServer) error {
	told := ""
	for {
		devices := f.devices()
		if now := fmt.Sprint(devices); now != told {
			if err := stream.Send(&plugin.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
			told = now
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (f *fakeGPUs) Allocate(_ context.Context, request *plugin.AllocateRequest) (*plugin.AllocateResponse, error) {
	response := &plugin.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, &plugin.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")},
		})
	}
	return response, nil
}

// serveUntilKubeletRestarts registers the GPUs with the kubelet that runs now. A kubelet empties the folder of its
// plugins as it starts, so the plugin may listen only once the kubelet answers, and its socket is gone with the next.
func serveUntilKubeletRestarts(gpus *fakeGPUs, folder, resource string) error {
	kubelet := filepath.Join(folder, "kubelet.sock")
	for {
		if connection, err := net.Dial("unix", kubelet); err == nil {
			connection.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	name := "fake-gpu.sock"
	socket := filepath.Join(folder, name)
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	plugin.RegisterDevicePluginServer(server, gpus)
	go server.Serve(listener)
	defer server.Stop()

	connection, err := grpc.NewClient("unix:"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	within, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = plugin.NewRegistrationClient(connection).Register(within,
		&plugin.RegisterRequest{Version: plugin.Version, Endpoint: name, ResourceName: resource}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	fmt.Println("registered", gpus.count, resource)
	for {
		if _, err := os.Lstat(socket); err != nil {
			return errors.New("the kubelet restarted")
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func main() {
	gpus := &fakeGPUs{}
	folder := flag.String("folder", "/var/lib/kubelet/device-plugins", "where the kubelet listens")
	resource := flag.String("resource", "nvidia.com/gpu", "what the GPUs are called")
	flag.StringVar(&gpus.sick, "sick", "", "a file with the ids of unhealthy GPUs")
	flag.IntVar(&gpus.count, "count", 8, "how many there are")
	flag.Parse()
	for {
		fmt.Println(serveUntilKubeletRestarts(gpus, *folder, *resource))
		time.Sleep(200 * time.Millisecond)
	}
}
